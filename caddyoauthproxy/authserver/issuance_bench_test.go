package authserver_test

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// BenchmarkIssue has chatbots get tokens on a vault file that is synced with every answer: by their refresh tokens, each after the one before, and by codes.
// One alone waits for the disk each time. Many at once share its syncs, and are as fast as the processors let them.
func BenchmarkIssue(b *testing.B) {
	for _, clients := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("refresh/clients=%d", clients), func(b *testing.B) { benchmarkRefreshes(b, clients) })
		b.Run(fmt.Sprintf("code/clients=%d", clients), func(b *testing.B) { benchmarkCodes(b, clients) })
	}
}

// issuingWorld is one whose limits nobody meets.
func issuingWorld(b *testing.B) *world {
	b.Helper()
	w := newWorld(b, func(o *authserver.Options) {
		most := authserver.Rate{Events: 1_000_000, Window: time.Second}
		o.Limits = authserver.Limits{Register: most, Authorize: most, Login: most, Token: most, Client: most}
		o.MaxGrants = 1_000_000
	})
	b.Cleanup(w.vault.KeepAudit())
	return w
}

// share has so many clients make b.N requests together.
func share(b *testing.B, clients int, request func(client, n int) error) {
	b.Helper()
	b.ReportAllocs()
	var next atomic.Int64
	var group sync.WaitGroup
	b.ResetTimer()
	for client := range clients {
		group.Go(func() {
			for n := int(next.Add(1)); n <= b.N; n = int(next.Add(1)) {
				if err := request(client, n-1); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

// token asks the token endpoint, without a network.
func (w *world) token(form url.Values) (*httptest.ResponseRecorder, error) {
	r := httptest.NewRequest(http.MethodPost, w.url+endpoints+"/a/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	got := httptest.NewRecorder()
	w.server.ServeHTTP(got, r)
	if got.Code != http.StatusOK {
		return nil, fmt.Errorf("%d: %s", got.Code, got.Body)
	}
	return got, nil
}

func benchmarkRefreshes(b *testing.B, clients int) {
	w := issuingWorld(b)
	bots, held := make([]bot, clients), make([]string, clients)
	for i := range clients {
		var got tokens
		bots[i], got = w.session()
		held[i] = got.refresh
	}
	share(b, clients, func(client, _ int) error {
		got, err := w.token(refreshForm(bots[client], held[client]))
		if err == nil {
			held[client] = w.tokens(answer{got.Code, got.Header(), got.Body.String()}).refresh
		}
		return err
	})
}

func benchmarkCodes(b *testing.B, clients int) {
	w := issuingWorld(b)
	bot, got := w.session()
	g, _, err := w.server.Authenticate(b.Context(), got.access, "a")
	if err != nil {
		b.Fatal(err)
	}
	account, err := w.vault.Account(b.Context(), g.AccountID)
	if err != nil {
		b.Fatal(err)
	}
	codes := make([]string, b.N)
	var writes []tokenstore.Write
	for i := range codes { // each of another user's login
		var random [32]byte
		_, _ = rand.Read(random[:])
		codes[i] = base64.RawURLEncoding.EncodeToString(random[:])
		grant, acc := *g, *account
		grant.Meta, acc.Meta = tokenstore.Meta{ID: rand.Text(), DeleteAfter: g.DeleteAfter}, tokenstore.Meta{ID: rand.Text(), DeleteAfter: account.DeleteAfter}
		grant.AccountID, grant.UserID, grant.Family = acc.ID, fmt.Sprintf("user-%d", i), tokenstore.RefreshFamily{}
		code := &tokenstore.Code{
			Meta:     tokenstore.Meta{ID: w.vault.Hash("code", codes[i]), DeleteAfter: w.vault.Now().Add(time.Hour)},
			ClientID: bot.id, GrantID: grant.ID, RedirectURI: redirectURI, CodeChallenge: challenge(), Expires: w.vault.Now().Add(time.Hour),
		}
		writes = append(writes, tokenstore.Save(&grant), tokenstore.Save(&acc), tokenstore.Save(code))
		if len(writes) >= 300 || i == len(codes)-1 {
			if err := w.vault.Commit(b.Context(), writes...); err != nil {
				b.Fatal(err)
			}
			writes = nil
		}
	}
	share(b, clients, func(_, n int) error {
		_, err := w.token(codeForm(bot, codes[n]))
		return err
	})
}
