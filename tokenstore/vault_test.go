package tokenstore_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

// now is when the tests of this package take place.
var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

// newStore opens an empty bbolt store, which ends with the test.
func newStore(t testing.TB) tokenstore.Store {
	t.Helper()
	return openFile(t, filepath.Join(t.TempDir(), "vault.db"))
}

func openFile(t testing.TB, path string) tokenstore.Store {
	t.Helper()
	s, err := bbolt.Open(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func openVault(t testing.TB, s tokenstore.Store, keys ...tokenstore.RootKey) *tokenstore.Vault {
	t.Helper()
	v, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: keys, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func commit(t testing.TB, v *tokenstore.Vault, writes ...tokenstore.Write) {
	t.Helper()
	if err := v.Commit(t.Context(), writes...); err != nil {
		t.Fatalf("Commit: %v", err)
	}
}

func newGrant(id string) *tokenstore.Grant {
	return &tokenstore.Grant{
		Meta: tokenstore.Meta{ID: id, DeleteAfter: now.Add(time.Hour)}, State: tokenstore.StateActive,
		ClientID: "client-1", Client: "Chatbot", Proxy: "github", Resource: "https://gw.test/mcp/github", Scopes: []string{"repo"},
		UserID: "user-1", User: tokenstore.User{Provider: "okta", Issuer: "https://okta.test", Subject: "00u1", Email: "ann@example.com"},
		AccountID: "account-1", Created: now, Expires: now.Add(time.Minute), Ends: now.Add(time.Hour),
		Family:   tokenstore.RefreshFamily{Generation: 2, Current: "hash-2", Replaced: []time.Time{now}, Rotated: now, JTI: "jti-2"},
		Provider: "okta",
	}
}

func newAccount(id string) *tokenstore.Account {
	return &tokenstore.Account{
		Meta: tokenstore.Meta{ID: id}, State: tokenstore.StateActive, Provider: "okta", UserID: "user-1",
		AccessToken: "at-secret-" + id, RefreshToken: "rt-secret-" + id, IDToken: "id-secret-" + id, TokenType: "Bearer", Scopes: []string{"repo"},
		Obtained: now, Expires: now.Add(time.Hour), Lease: tokenstore.Lease{Owner: "node-1", Until: now.Add(time.Minute), Replayed: true},
	}
}

func newLogin(id string) *tokenstore.Login {
	return &tokenstore.Login{
		Meta: tokenstore.Meta{ID: id, DeleteAfter: now.Add(time.Minute)},
		Request: tokenstore.AuthRequest{
			TransactionID: "tx-1", ClientID: "client-1", RedirectURI: "http://127.0.0.1/cb", State: "state-secret",
			CodeChallenge: "challenge", Proxy: "github", Resource: "https://gw.test/mcp/github",
		},
		Provider: "okta", Browser: "browser-hash", Nonce: "nonce-secret", Verifier: "verifier-secret", Expires: now.Add(time.Minute),
	}
}

// oneOfEach returns a record of every kind, and a function that reads each back.
func oneOfEach(v *tokenstore.Vault) map[tokenstore.Record]func(context.Context) (tokenstore.Record, error) {
	client := &tokenstore.Client{
		Meta: tokenstore.Meta{ID: "client-1"}, Name: "Chatbot", RedirectURIs: []string{"http://127.0.0.1/cb"},
		GrantTypes: []string{"authorization_code"}, ResponseTypes: []string{"code"}, AuthMethod: "none", SecretHash: "hash", Created: now,
	}
	code := &tokenstore.Code{
		Meta: tokenstore.Meta{ID: "code-1", DeleteAfter: now.Add(time.Minute)}, GrantID: "grant-1", ClientID: "client-1",
		RedirectURI: "http://127.0.0.1/cb", CodeChallenge: "challenge", Resource: "https://gw.test/mcp/github", Expires: now, Used: now,
	}
	keys := &tokenstore.SigningKeys{Keys: []tokenstore.SigningKey{{ID: "kid", Algorithm: "ES256", JWK: []byte(`{"d":"jwk-secret"}`), Created: now}}}
	return map[tokenstore.Record]func(context.Context) (tokenstore.Record, error){
		client:                  func(ctx context.Context) (tokenstore.Record, error) { return v.Client(ctx, "client-1") },
		code:                    func(ctx context.Context) (tokenstore.Record, error) { return v.Code(ctx, "code-1") },
		keys:                    func(ctx context.Context) (tokenstore.Record, error) { return v.SigningKeys(ctx) },
		newLogin("login-1"):     func(ctx context.Context) (tokenstore.Record, error) { return v.Login(ctx, "login-1") },
		newGrant("grant-1"):     func(ctx context.Context) (tokenstore.Record, error) { return v.Grant(ctx, "grant-1") },
		newAccount("account-1"): func(ctx context.Context) (tokenstore.Record, error) { return v.Account(ctx, "account-1") },
	}
}

func TestRecordsComeBackAsTheyWereSaved(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), tokenstore.NewRootKey()
	v := openVault(t, s, key)
	for record, read := range oneOfEach(v) {
		if _, err := read(t.Context()); !errors.Is(err, tokenstore.ErrNotFound) {
			t.Errorf("%T before it is saved: %v; want ErrNotFound", record, err)
		}
		commit(t, v, tokenstore.Save(record))
		commit(t, v, tokenstore.Save(record)) // an update
		got, err := read(t.Context())
		if err != nil || !reflect.DeepEqual(got, record) {
			t.Errorf("%T comes back as\n%+v, %v; want\n%+v", record, got, err, record)
		}
		commit(t, v, tokenstore.Delete(record))
		if _, err := read(t.Context()); !errors.Is(err, tokenstore.ErrNotFound) {
			t.Errorf("%T after it is deleted: %v; want ErrNotFound", record, err)
		}
	}
}

func TestCommitCountsVersionsAndSettlesRaces(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	grant, account := newGrant("grant-1"), newAccount("account-1")
	commit(t, v, tokenstore.Save(grant), tokenstore.Save(account))
	if grant.Version != 1 || account.Version != 1 {
		t.Errorf("versions after the insert are %d and %d; want 1", grant.Version, account.Version)
	}
	other, err := v.Grant(t.Context(), "grant-1")
	if err != nil {
		t.Fatal(err)
	}
	other.State = tokenstore.StateRevoked
	commit(t, v, tokenstore.Save(other))

	grant.Reason, account.Reason = "lost", "lost with it"
	for name, err := range map[string]error{
		"update": v.Commit(t.Context(), tokenstore.Save(account), tokenstore.Save(grant)),
		"delete": v.Commit(t.Context(), tokenstore.Save(account), tokenstore.Delete(grant)),
		"insert": v.Commit(t.Context(), tokenstore.Save(account), tokenstore.Save(newGrant("grant-1"))),
	} {
		if !errors.Is(err, tokenstore.ErrConflict) {
			t.Errorf("%s of what somebody else changed = %v; want ErrConflict", name, err)
		}
	}
	if grant.Version != 1 || account.Version != 1 {
		t.Errorf("versions after lost races are %d and %d; want 1 as before", grant.Version, account.Version)
	}
	stored, err := v.Account(t.Context(), "account-1")
	if err != nil || stored.Version != 1 || stored.Reason != "" {
		t.Errorf("account beside a lost race = %+v, %v; want it untouched", stored, err)
	}
	commit(t, v)
}

func TestCommitNamesWhatIsOutsideTheLimits(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	longRef, spaced := newGrant("grant-1"), newGrant("grant-2")
	longRef.ClientID = "https://client.test/" + strings.Repeat("x", 200)
	spaced.UserID = "a b"
	same := newGrant("grant-3")
	for want, writes := range map[string][]tokenstore.Write{
		"its id must be":            {tokenstore.Save(newAccount(""))},
		"https://client.test/":      {tokenstore.Save(longRef)},
		`"user:a b"`:                {tokenstore.Save(spaced)},
		"grant-3 is changed twice":  {tokenstore.Save(same), tokenstore.Save(same)},
		"account a b: its id must ": {tokenstore.Delete(newAccount("a b"))},
	} {
		err := v.Commit(t.Context(), writes...)
		if !errors.Is(err, tokenstore.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Commit = %v; want ErrInvalid that says %q", err, want)
		}
	}
}

func TestIDsFromRequestsAreNotFoundWhateverTheyHold(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	for _, id := range []string{"", " ", "\x00", "a\nb", "\xff", strings.Repeat("x", 1<<16)} {
		if _, err := v.Client(t.Context(), id); !errors.Is(err, tokenstore.ErrNotFound) {
			t.Errorf("Client(%.10q) = %v; want ErrNotFound", id, err)
		}
	}
}

func TestGrantsAreListedByAllFieldsTogether(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	for i := range 6 {
		g := newGrant(fmt.Sprint("grant-", i))
		g.ClientID, g.UserID = fmt.Sprint("client-", i%2), fmt.Sprint("user-", i%3)
		commit(t, v, tokenstore.Save(g))
	}
	for _, tt := range []struct {
		query tokenstore.GrantQuery
		want  string
	}{
		{tokenstore.GrantQuery{}, "0 1 2 3 4 5"},
		{tokenstore.GrantQuery{AccountID: "account-1"}, "0 1 2 3 4 5"},
		{tokenstore.GrantQuery{Proxy: "github"}, "0 1 2 3 4 5"},
		{tokenstore.GrantQuery{ClientID: "client-1"}, "1 3 5"},
		{tokenstore.GrantQuery{UserID: "user-2"}, "2 5"},
		{tokenstore.GrantQuery{ClientID: "client-1", After: "grant-1", Limit: 1}, "3"},
		{tokenstore.GrantQuery{ClientID: "client-1", UserID: "user-2"}, "5"},
		{tokenstore.GrantQuery{ClientID: "client-1", UserID: "user-2", Proxy: "git"}, ""},
		{tokenstore.GrantQuery{Health: tokenstore.HealthValid, UserID: "user-1"}, "1 4"},
		{tokenstore.GrantQuery{Health: tokenstore.HealthRevoked}, ""},
		{tokenstore.GrantQuery{Provider: "okta", ClientID: "client-0"}, "0 2 4"},
		{tokenstore.GrantQuery{Proxy: "git"}, ""},
	} {
		grants, err := v.Grants(t.Context(), tt.query)
		var ids []string
		for _, g := range grants {
			ids = append(ids, strings.TrimPrefix(g.ID, "grant-"))
			if g.Version != 1 || g.Client != "Chatbot" {
				t.Errorf("listed grant is not whole: %+v", g)
			}
		}
		if got := strings.Join(ids, " "); err != nil || got != tt.want {
			t.Errorf("Grants(%+v) = %q, %v; want %q", tt.query, got, err, tt.want)
		}
	}
}

func TestRefreshableGrantsAreThoseOfOneUserAndClientThatNobodyEnded(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	client := "https://client.example/" + strings.Repeat("x", 160) // as long as ids of clients can be
	var writes []tokenstore.Write
	want := 0
	for i := range 2200 {
		g := newGrant(fmt.Sprintf("grant-%04d", i))
		g.ClientID = client
		switch i % 8 {
		case 0:
			g.State = tokenstore.StateRevoked
		case 1:
			g.UserID = "user-2"
		case 2:
			g.ClientID = "client-1"
		case 3:
			g.Family = tokenstore.RefreshFamily{}
		default:
			want++
		}
		writes = append(writes, tokenstore.Save(g))
	}
	for batch := range slices.Chunk(writes, 200) {
		commit(t, v, batch...)
	}
	listed := func() []*tokenstore.Grant {
		t.Helper()
		grants, err := v.RefreshableGrants(t.Context(), "user-1", client)
		if err != nil {
			t.Fatal(err)
		}
		return grants
	}
	grants := listed()
	for _, g := range grants {
		if g.UserID != "user-1" || g.ClientID != client || g.State != tokenstore.StateActive || g.Family.Generation == 0 {
			t.Fatalf("listed %+v", g)
		}
	}
	if len(grants) != want || want <= 1000 {
		t.Errorf("%d grants, want %d", len(grants), want)
	}
	grants[0].State = tokenstore.StateRevoked
	commit(t, v, tokenstore.Save(grants[0]))
	if n := len(listed()); n != want-1 {
		t.Errorf("%d grants after one was ended, want %d", n, want-1)
	}
}

func TestSweepTakesWhatIsPastItsTimeAndNothingElse(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	for record := range oneOfEach(v) { // login, code and grant have a time of deletion
		commit(t, v, tokenstore.Save(record))
	}
	for i, tt := range []struct {
		before      time.Time
		limit, want int
	}{
		{now, 10, 0},
		{now.Add(2 * time.Hour), 1, 1},
		{now.Add(2 * time.Hour), 10, 2},
		{now.Add(2 * time.Hour), 10, 0},
	} {
		if n, err := v.Sweep(t.Context(), tt.before, tt.limit); n != tt.want || err != nil {
			t.Errorf("Sweep number %d = %d, %v; want %d", i, n, err, tt.want)
		}
	}
	_, client := v.Client(t.Context(), "client-1")
	_, account := v.Account(t.Context(), "account-1")
	_, keys := v.SigningKeys(t.Context())
	if err := errors.Join(client, account, keys); err != nil {
		t.Errorf("records without a time of deletion: %v", err)
	}
	_, login := v.Login(t.Context(), "login-1")
	_, code := v.Code(t.Context(), "code-1")
	_, grant := v.Grant(t.Context(), "grant-1")
	for _, err := range []error{login, code, grant} {
		if !errors.Is(err, tokenstore.ErrNotFound) {
			t.Errorf("record past its time: %v; want ErrNotFound", err)
		}
	}
}

func TestOpenLoginsAreCountedAndTheFirstToEndGiveWay(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	login := func(i int) *tokenstore.Login {
		return &tokenstore.Login{Meta: tokenstore.Meta{ID: fmt.Sprint("login-", i), DeleteAfter: now.Add(time.Duration(9-i) * time.Minute)}}
	}
	open := func(want int) {
		t.Helper()
		if n, err := v.CountOpenLogins(t.Context()); n != want || err != nil {
			t.Errorf("CountOpenLogins = %d, %v; want %d", n, err, want)
		}
	}
	for i := range 5 {
		commit(t, v, tokenstore.Save(login(i)))
	}
	open(5)
	claimed, err := v.Login(t.Context(), "login-3")
	if err != nil {
		t.Fatal(err)
	}
	claimed.Claimed, claimed.DeleteAfter = now, now.Add(time.Hour)
	commit(t, v, tokenstore.Save(claimed))
	open(4)
	if n, err := v.EvictLogins(t.Context(), 2); n != 2 || err != nil {
		t.Errorf("EvictLogins = %d, %v; want 2", n, err)
	}
	open(2)
	for i, there := range []bool{true, true, false, true, false} {
		if _, err := v.Login(t.Context(), fmt.Sprint("login-", i)); (err == nil) != there {
			t.Errorf("login %d: %v", i, err)
		}
	}
}

func TestVaultIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	commit(t, v, tokenstore.Save(newAccount("shared")))
	var wait sync.WaitGroup
	for worker := range 8 {
		wait.Go(func() {
			for i := range 5 {
				if err := v.Commit(t.Context(), tokenstore.Save(newGrant(fmt.Sprint("grant-", worker, "-", i)))); err != nil {
					t.Errorf("Commit: %v", err)
				}
				for {
					a, err := v.Account(t.Context(), "shared")
					if err != nil {
						t.Errorf("Account: %v", err)
						return
					}
					a.Scopes = append(a.Scopes, fmt.Sprint(worker, i))
					if err := v.Commit(t.Context(), tokenstore.Save(a)); err == nil {
						break
					} else if !errors.Is(err, tokenstore.ErrConflict) {
						t.Errorf("Commit: %v", err)
						return
					}
				}
				_ = v.Hash("state", "x")
				if _, err := v.OpenSealed("consent", v.Seal("consent", nil, now.Add(time.Hour))); err != nil {
					t.Errorf("OpenSealed: %v", err)
				}
			}
		})
	}
	wait.Wait()
	a, err := v.Account(t.Context(), "shared")
	if err != nil || len(a.Scopes) != 1+8*5 || a.Version != 1+8*5 {
		t.Errorf("account = version %d with %d scopes, %v; want no update lost", a.Version, len(a.Scopes), err)
	}
}

func TestErrorsOfTheStoreReachTheCaller(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), tokenstore.NewRootKey()
	v := openVault(t, s, key)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, get := v.Grant(t.Context(), "grant-1")
	_, list := v.Grants(t.Context(), tokenstore.GrantQuery{})
	_, sweep := v.Sweep(t.Context(), now, 1)
	_, initialized := tokenstore.Initialized(t.Context(), s)
	_, open := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{key}})
	for name, err := range map[string]error{
		"Grant": get, "Grants": list, "Sweep": sweep, "Initialized": initialized, "Open": open,
		"Commit": v.Commit(t.Context(), tokenstore.Save(newGrant("grant-1"))),
	} {
		if !errors.Is(err, tokenstore.ErrClosed) {
			t.Errorf("%s on a closed store = %v; want ErrClosed", name, err)
		}
	}
}

func BenchmarkGrant(b *testing.B) {
	v := openVault(b, newStore(b), tokenstore.NewRootKey())
	commit(b, v, tokenstore.Save(newGrant("grant-1")))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Grant(b.Context(), "grant-1"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCommit(b *testing.B) {
	v := openVault(b, newStore(b), tokenstore.NewRootKey())
	grant := newGrant("grant-1")
	b.ReportAllocs()
	for b.Loop() {
		commit(b, v, tokenstore.Save(grant))
	}
}
