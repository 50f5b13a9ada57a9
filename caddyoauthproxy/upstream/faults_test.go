package upstream

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/outbound"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// faultWorld is a world in a bubble whose provider is reached with the gateway's own client over HTTP, so that
// connections break, bodies end early and gzip is unpacked as they really are, and yet no time passes.
type faultWorld struct {
	*world
	pipes *pipes

	// clock is how far the provider's clock is ahead.
	clock atomic.Int64

	// discovery, where set, answers instead of the discovery document.
	discovery atomic.Pointer[http.HandlerFunc]
}

// newFaultWorld is for synctest. Other than most tests it has the default timeout and the default retries.
func newFaultWorld(t *testing.T) *faultWorld {
	t.Helper()
	t.Cleanup(func() { time.Sleep(10 * time.Minute) }) // answers that nobody waits for any more end too
	idp := newFakeProvider("http://127.0.0.1:9")       // the only address for which the gateway asks for no TLS
	w := &faultWorld{world: newWorld(t, idp, nil), pipes: newPipes()}
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Date", time.Now().Add(time.Duration(w.clock.Load())).UTC().Format(http.TimeFormat))
		if answer := w.discovery.Load(); answer != nil && strings.HasSuffix(r.URL.Path, "/openid-configuration") {
			(*answer)(rw, r)
			return
		}
		idp.ServeHTTP(rw, r)
	})}
	go func() { _ = server.Serve(w.pipes) }()
	t.Cleanup(func() { _ = server.Close() })
	client := outbound.New(DefaultTimeout, maxParallel)
	transport := client.Transport.(*http.Transport)
	transport.DialContext, transport.Proxy = w.pipes.dial, nil
	w.pipes.idle = transport.CloseIdleConnections
	t.Cleanup(transport.CloseIdleConnections)
	w.provider = idp.providerOver(t, client, func(c *Config) { c.Retries = 0 })
	w.accounts = w.node()
	return w
}

// discoveryFails makes discovery answer otherwise; nil heals it.
func (w *faultWorld) discoveryFails(answer http.HandlerFunc) {
	if answer == nil {
		w.discovery.Store(nil)
		return
	}
	w.discovery.Store(&answer)
}

// instead has the token endpoint answer so before it does anything: the refresh token stays good.
func instead(answer http.HandlerFunc) func(*faultWorld) {
	return func(w *faultWorld) { w.idp.set(func(p *fakeProvider) { p.answer = answer }) }
}

// insteadOnce is a fault that meets the first request alone.
func insteadOnce(answer http.HandlerFunc) func(*faultWorld) {
	return func(w *faultWorld) {
		w.idp.set(func(p *fakeProvider) {
			p.answer = func(rw http.ResponseWriter, r *http.Request) {
				p.set(func(p *fakeProvider) { p.answer = nil })
				answer(rw, r)
			}
		})
	}
}

// afterRotating has the token endpoint rotate first: the refresh token is spent, and its successor lost. Once.
func afterRotating(answer http.HandlerFunc) func(*faultWorld) {
	return func(w *faultWorld) {
		w.idp.set(func(p *fakeProvider) {
			p.late = func(rw http.ResponseWriter, r *http.Request) {
				p.set(func(p *fakeProvider) { p.late = nil })
				answer(rw, r)
			}
		})
	}
}

// answering has the token endpoint refresh as it should, and change its answer.
func answering(change func(w *faultWorld, m map[string]any)) func(*faultWorld) {
	return func(w *faultWorld) {
		w.idp.set(func(p *fakeProvider) {
			p.change = func(m map[string]any) {
				if m["access_token"] != nil {
					change(w, m)
				}
			}
		})
	}
}

// member changes one member of the token endpoint's answer; nil is null.
func member(name string, value any) func(*faultWorld) {
	return answering(func(_ *faultWorld, m map[string]any) { m[name] = value })
}

// forgives makes a provider with a grace for refresh tokens that come again.
func forgives(grace time.Duration) func(*fakeProvider) {
	return func(p *fakeProvider) { p.grace = grace }
}

// keepsTokens makes a provider that does not rotate.
func keepsTokens(p *fakeProvider) { p.keeps = true }

// heal ends every fault that is not the provider's nature.
func (w *faultWorld) heal() {
	w.idp.set(func(p *fakeProvider) { p.answer, p.late, p.change = nil, nil, nil })
	w.pipes.refuse(false)
	w.discoveryFails(nil)
	w.clock.Store(0)
}

// Handlers that end the connection: at once, in the middle of an answer, never, or after an answer of its own time.
func cut(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func cutInTheMiddle(rw http.ResponseWriter, _ *http.Request) {
	rw.Header().Set("Content-Type", jsonType)
	rw.Header().Set("Content-Length", "200")
	_, _ = rw.Write([]byte(`{"access_token":"at.`))
	_ = http.NewResponseController(rw).Flush()
	panic(http.ErrAbortHandler)
}

func hang(http.ResponseWriter, *http.Request) { time.Sleep(5 * time.Minute) }

// after waits and then refreshes as it should.
func after(d time.Duration) func(*faultWorld) {
	return func(w *faultWorld) { slowly(w.idp, d) }
}

// withGzip answers with a body that unpacks to size bytes.
func withGzip(size int) http.HandlerFunc {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write([]byte(`{"access_token":"` + strings.Repeat("a", size) + `"}`))
	_ = z.Close()
	return answerWith(200, jsonType, packed.String(), "Content-Encoding", "gzip")
}

// outcome of a call of Token.
type got string

const (
	isOld     got = "the old token"
	isRenewed got = "a renewed token"
	isDown    got = "unavailable"
	isLogin   got = "needs a login"
)

// ask calls Token and says what came.
func (w *faultWorld) ask(id string) (got, string, error) {
	token, err := w.accounts.Token(w.t.Context(), id)
	switch {
	case errors.Is(err, ErrNeedsReauth):
		return isLogin, "", err
	case isUnavailable(err):
		return isDown, "", err
	case err != nil:
		return got(err.Error()), "", err
	case token == "at."+id+".0":
		return isOld, token, nil
	default:
		return isRenewed, token, nil
	}
}

// limits are the least and the most.
type limits [2]int

func (l limits) hold(n int) bool { return n >= l[0] && n <= l[1] }

var (
	one     = limits{1, 1}
	two     = limits{2, 2}
	none    = limits{0, 0}
	seldom  = limits{5, 12}  // in three minutes, with pauses of 1, 2, 4, 8, 16, 32 and 60 s
	patient = limits{12, 44} // the same, each with three repetitions that the provider asked for
	perhaps = limits{3, 5}   // one for each lease: the refresh token may be spent
)

// fault is one row of the table.
type fault struct {
	provider func(*fakeProvider) // what kind it is; nil: rotates, and is strict
	begin    func(*faultWorld)   // nil: nothing is wrong
	unread   bool                // the provider's documents have not been read before

	living got                               // what a token that lives for two more minutes is in the end; it is never unavailable
	first  got                               // what the first call gets after the token has ended
	within time.Duration                     // how long that call takes at most
	later  got                               // what calls get for three minutes from then on, at the end of them; empty: as the first
	posts  limits                            // token requests in that time
	state  tokenstore.State                  // of the account then; empty: active
	heals  time.Duration                     // how long after the fault's end it works again, without a login; zero: a minute
	login  bool                              // it does not: the provider has said no for good
	reuses int                               // refresh tokens that came twice and that the provider does not forgive
	graced int                               // and those that it does
	check  func(t *testing.T, w *faultWorld) // what else is so before the fault ends
}

// faults are what providers, and what is between them and the gateway, were seen to do.
var faults = map[string]fault{
	// Rotation (R11, R12). A strict provider ends the family of a refresh token that comes twice, so that no row can pass
	// in which one does.
	"rotates without grace": {living: isRenewed, first: isRenewed, posts: one},
	"rotates with grace":    {provider: forgives(time.Minute), living: isRenewed, first: isRenewed, posts: one},
	"gives the same refresh token": {provider: keepsTokens, living: isRenewed, first: isRenewed, posts: one, check: func(t *testing.T, w *faultWorld) {
		if got := w.stored("a").RefreshToken; got != "rt.a.0" {
			t.Errorf("stored refresh token %s", got)
		}
	}},
	"gives no refresh token": {provider: keepsTokens, begin: answering(func(_ *faultWorld, m map[string]any) { delete(m, "refresh_token") }),
		living: isRenewed, first: isRenewed, posts: one, check: func(t *testing.T, w *faultWorld) {
			if got := w.stored("a").RefreshToken; got != "rt.a.0" {
				t.Errorf("stored refresh token %s", got)
			}
		}},

	// Time (R08).
	"slow, within what a request waits for": {begin: after(10 * time.Second), living: isRenewed, first: isRenewed, within: 10 * time.Second, posts: one},
	"slow, within the timeout":              {begin: after(25 * time.Second), living: isRenewed, first: isDown, within: waitTime, later: isRenewed, posts: one},
	"slower than the timeout, once, before it rotates": {begin: insteadOnce(hang),
		living: isRenewed, first: isDown, within: waitTime, later: isRenewed, posts: two},
	"slower than the timeout, once, after it has rotated, strict": {begin: afterRotating(hang),
		living: isLogin, first: isDown, within: waitTime, later: isLogin, posts: two, state: tokenstore.StateNeedsReauth, login: true, reuses: 1},
	"slower than the timeout, once, after it has rotated, with grace": {provider: forgives(time.Minute), begin: afterRotating(hang),
		living: isRenewed, first: isDown, within: waitTime, later: isRenewed, posts: two, graced: 1},
	"hangs": {begin: instead(hang), living: isOld, first: isDown, within: waitTime, posts: perhaps, state: tokenstore.StateRefreshing, heals: 2 * time.Minute},

	// Answers that say nothing about the refresh token (R07).
	"500":                              {begin: instead(answerWith(500, jsonType, `{"error":"server_error"}`)), living: isOld, first: isDown, posts: seldom},
	"500 with the words invalid_grant": {begin: instead(answerWith(500, jsonType, `{"error":"invalid_grant"}`)), living: isOld, first: isDown, posts: seldom},
	"502 with a page":                  {begin: instead(answerWith(502, "text/html", `<html>Bad gateway</html>`)), living: isOld, first: isDown, posts: seldom},
	"503 that asks for 2 s": {begin: instead(answerWith(503, jsonType, `{}`, "Retry-After", "2")),
		living: isOld, first: isDown, within: 6 * time.Second, posts: patient},
	"503 that asks for 2 s, once": {begin: insteadOnce(answerWith(503, jsonType, `{}`, "Retry-After", "2")),
		living: isRenewed, first: isRenewed, within: 2 * time.Second, posts: two},
	"503 that asks for 5 min": {begin: instead(answerWith(503, jsonType, `{}`, "Retry-After", "300")), living: isOld, first: isDown, posts: one, heals: 5 * time.Minute},
	"429 that asks for 2 s": {begin: instead(answerWith(429, jsonType, `{}`, "Retry-After", "2")),
		living: isOld, first: isDown, within: 6 * time.Second, posts: patient},
	"429 that asks for 2 s, once": {begin: insteadOnce(answerWith(429, jsonType, `{}`, "Retry-After", "2")),
		living: isRenewed, first: isRenewed, within: 2 * time.Second, posts: two},
	"429 that asks for 10 min": {begin: instead(answerWith(429, jsonType, `{}`, "Retry-After", "600")), living: isOld, first: isDown, posts: one, heals: 10 * time.Minute},
	"429 that asks for a day":  {begin: instead(answerWith(429, jsonType, `{}`, "Retry-After", "86400")), living: isOld, first: isDown, posts: one, heals: maxRetryAfter},
	// A date is by the provider's clock, which its answers tell. From one that does not, a date that is too late makes the gateway wait
	// longer, and one that is past makes it pause by itself.
	"429 until a date":                            {begin: throttledUntil(0, true), living: isRenewed, first: isDown, later: isRenewed, posts: two},
	"429 until a date, by a clock 10 min fast":    {begin: throttledUntil(10*time.Minute, true), living: isRenewed, first: isDown, later: isRenewed, posts: two},
	"429 until a date, by a clock 10 min slow":    {begin: throttledUntil(-10*time.Minute, true), living: isRenewed, first: isDown, later: isRenewed, posts: two},
	"429 until a date, by an unknown clock, fast": {begin: throttledUntil(10*time.Minute, false), living: isOld, first: isDown, posts: one, heals: 11 * time.Minute},
	"429 until a date, by an unknown clock, slow": {begin: throttledUntil(-10*time.Minute, false), living: isRenewed, first: isDown, later: isRenewed, posts: limits{5, 7}},
	"429 that asks for nothing":                   {begin: instead(answerWith(429, "text/plain", `slow down`)), living: isOld, first: isDown, posts: seldom},
	"403 page of a firewall":                      {begin: instead(answerWith(403, "text/html", `<html>Blocked</html>`)), living: isOld, first: isDown, posts: seldom},
	"200 page of a portal":                        {begin: instead(answerWith(200, "text/html", `<html>Log in to the network</html>`)), living: isOld, first: isDown, posts: seldom},
	"redirect":                                    {begin: instead(answerWith(302, "text/html", ``, "Location", "/login")), living: isOld, first: isDown, posts: seldom},

	// Connections.
	"connection refused": {begin: func(w *faultWorld) { w.pipes.refuse(true) },
		living: isOld, first: isDown, within: 3 * time.Second, posts: none, check: func(t *testing.T, w *faultWorld) {
			if n := w.pipes.refused(); n > 4*12 {
				t.Errorf("%d connections were tried", n)
			}
		}},
	// The answer is lost for certain, so that the last try comes at once, and within any grace. One that is cut, too, has time.
	"connection cut before it rotates": {begin: instead(cut), living: isOld, first: isDown, within: cutLeaseTime, posts: limits{4, 6}, state: tokenstore.StateRefreshing, heals: 2 * time.Minute},
	"connection cut before it rotates, once": {begin: insteadOnce(cut),
		living: isRenewed, first: isRenewed, within: cutLeaseTime, posts: two},
	"connection cut after it has rotated, with grace": {provider: forgives(time.Minute), begin: afterRotating(cut),
		living: isRenewed, first: isRenewed, within: cutLeaseTime, posts: two, graced: 1},
	"connection cut after it has rotated, with a grace of 30 s": {provider: forgives(30 * time.Second), begin: afterRotating(cut),
		living: isRenewed, first: isRenewed, within: cutLeaseTime, posts: two, graced: 1},
	"connection cut after it has rotated, with a grace of 10 s": {provider: forgives(10 * time.Second), begin: afterRotating(cut),
		living: isRenewed, first: isRenewed, within: cutLeaseTime, posts: two, graced: 1},
	"connection cut after it has rotated, strict": {begin: afterRotating(cut),
		living: isLogin, first: isLogin, within: cutLeaseTime, posts: two, state: tokenstore.StateNeedsReauth, login: true, reuses: 1},
	"connection cut in the middle of the tokens, with grace": {provider: forgives(10 * time.Second), begin: afterRotating(cutInTheMiddle),
		living: isRenewed, first: isRenewed, within: cutLeaseTime, posts: two, graced: 1},
	"connection cut in the middle of the tokens, strict": {begin: afterRotating(cutInTheMiddle),
		living: isLogin, first: isLogin, within: cutLeaseTime, posts: two, state: tokenstore.StateNeedsReauth, login: true, reuses: 1},
	// After a timeout the answer may still be under way, so that the last try comes when the lease ends, and a shorter grace helps nobody.
	"slower than the timeout, once, after it has rotated, with a grace of 10 s": {provider: forgives(10 * time.Second), begin: afterRotating(hang),
		living: isLogin, first: isDown, within: waitTime, later: isLogin, posts: two, state: tokenstore.StateNeedsReauth, login: true, reuses: 1},

	// Answers that are nonsense (R13).
	"truncated JSON": {begin: instead(answerWith(200, jsonType, `{"access_token":"at.`)), living: isOld, first: isDown, posts: seldom},
	"truncated JSON after rotating, with grace": {provider: forgives(10 * time.Second), begin: afterRotating(answerWith(200, jsonType, `{"access_token":"at.`)),
		living: isRenewed, first: isDown, later: isRenewed, posts: two, graced: 1},
	"truncated JSON after rotating, strict": {begin: afterRotating(answerWith(200, jsonType, `{"access_token":"at.`)),
		living: isLogin, first: isDown, later: isLogin, posts: two, state: tokenstore.StateNeedsReauth, login: true, reuses: 1},
	"2 MiB":                    {begin: instead(answerWith(200, jsonType, `{"access_token":"`+strings.Repeat("a", 2<<20)+`"}`)), living: isOld, first: isDown, posts: seldom},
	"gzip that grows 2 MiB":    {begin: instead(withGzip(2 << 20)), living: isOld, first: isDown, posts: seldom},
	"gzip":                     {provider: keepsTokens, begin: instead(withGzip(100)), living: isRenewed, first: isRenewed, posts: one},
	"200 with an error object": {begin: instead(answerWith(200, jsonType, `{"error":{"code":190,"message":"try again later"}}`)), living: isOld, first: isDown, posts: seldom},
	"wrong token_type":         {provider: keepsTokens, begin: member("token_type", "mac"), living: isOld, first: isDown, posts: seldom},

	// The provider's word (R09, R10). Only the first is about the user's login.
	"invalid_grant": {begin: instead(answerWith(400, jsonType, `{"error":"invalid_grant"}`)),
		living: isLogin, first: isLogin, posts: one, state: tokenstore.StateNeedsReauth, login: true},
	"invalid_client":      {begin: instead(answerWith(401, jsonType, `{"error":"invalid_client"}`)), living: isOld, first: isDown, posts: seldom},
	"unauthorized_client": {begin: instead(answerWith(400, jsonType, `{"error":"unauthorized_client"}`)), living: isOld, first: isDown, posts: seldom},
	"invalid_scope":       {begin: instead(answerWith(400, jsonType, `{"error":"invalid_scope"}`)), living: isOld, first: isDown, posts: seldom},

	// Lifetimes. One that is not said, or that cannot be, means: until the upstream refuses the token.
	"no expires_in":       {begin: answering(func(_ *faultWorld, m map[string]any) { delete(m, "expires_in") }), living: isRenewed, first: isRenewed, posts: one, check: livesFor(0)},
	"expires_in negative": {begin: member("expires_in", -3600), living: isRenewed, first: isRenewed, posts: one, check: livesFor(0)},
	"expires_in huge":     {begin: member("expires_in", 1e300), living: isRenewed, first: isRenewed, posts: one, check: livesFor(0)},
	"expires_in in ms":    {begin: member("expires_in", 3600_000), living: isRenewed, first: isRenewed, posts: one, check: livesFor(1000 * time.Hour)},
	"expires_in as text":  {begin: member("expires_in", "7200"), living: isRenewed, first: isRenewed, posts: one, check: livesFor(2 * time.Hour)},

	// Clocks (R37): the end of a token is reckoned from its receipt, by the gateway's clock.
	"provider's clock 10 min fast": {begin: clockOff(10 * time.Minute), living: isRenewed, first: isRenewed, posts: one, check: livesFor(time.Hour)},
	"provider's clock 10 min slow": {begin: clockOff(-10 * time.Minute), living: isRenewed, first: isRenewed, posts: one, check: livesFor(time.Hour)},

	// A refresh does not read the ID token that may come with it: who the user is was settled at the login. It is
	// stored as it came.
	"ID token of another issuer":      {begin: idToken(map[string]any{"iss": "https://evil.example"}, false), living: isRenewed, first: isRenewed, posts: one, check: userUnchanged},
	"ID token of another user":        {begin: idToken(map[string]any{"sub": "user-2"}, false), living: isRenewed, first: isRenewed, posts: one, check: userUnchanged},
	"ID token with a bad signature":   {begin: idToken(nil, true), living: isRenewed, first: isRenewed, posts: one, check: userUnchanged},
	"ID token that is none":           {begin: member("id_token", "none"), living: isRenewed, first: isRenewed, posts: one, check: userUnchanged},
	"ID token that cannot be a token": {provider: keepsTokens, begin: member("id_token", "a b"), living: isOld, first: isDown, posts: seldom, check: userUnchanged},

	// What is granted is believed, and asked for from then on.
	"scope narrowed": {begin: member("scope", "openid"), living: isRenewed, first: isRenewed, posts: one, check: func(t *testing.T, w *faultWorld) {
		if got := w.stored("a").Scopes; !slices.Equal(got, []string{"openid"}) {
			t.Errorf("stored scopes %v", got)
		}
		time.Sleep(2 * time.Hour)
		if what, _, err := w.ask("a"); what != isRenewed {
			t.Error(err)
		}
		w.idp.mu.Lock()
		defer w.idp.mu.Unlock()
		if first, last := w.idp.posts[0].Get("scope"), w.idp.posts[len(w.idp.posts)-1].Get("scope"); first != "openid email" || last != "openid" {
			t.Errorf("asked for %q, then for %q", first, last)
		}
	}},

	// Documents (R14).
	"discovery down": {unread: true, begin: discovery(answerWith(502, "text/html", `<html>Bad gateway</html>`)),
		living: isOld, first: isDown, posts: none},
	"discovery cut": {unread: true, begin: discovery(cut),
		living: isOld, first: isDown, within: 3 * time.Second, posts: none},
	"discovery cut, once": {unread: true, begin: func(w *faultWorld) {
		w.discoveryFails(func(rw http.ResponseWriter, r *http.Request) {
			w.discoveryFails(nil)
			cut(rw, r)
		})
	}, living: isRenewed, first: isRenewed, within: 3 * time.Second, posts: one},
	"discovery hangs": {unread: true, begin: discovery(hang),
		living: isOld, first: isDown, within: waitTime, posts: none},
	"discovery of another issuer": {unread: true, begin: discovery(answerWith(200, jsonType, `{"issuer":"https://evil.example"}`)),
		living: isOld, first: isDown, posts: none},
	"discovery down after it was read": {begin: discovery(cut), living: isRenewed, first: isRenewed, posts: one},
}

func discovery(answer http.HandlerFunc) func(*faultWorld) {
	return func(w *faultWorld) { w.discoveryFails(answer) }
}

// clockOff turns the provider's clock: that of its Date header and of its ID tokens.
func clockOff(d time.Duration) func(*faultWorld) {
	return func(w *faultWorld) {
		w.clock.Store(int64(d))
		answering(func(w *faultWorld, m map[string]any) {
			now := time.Now().Add(d)
			m["id_token"] = w.idp.idToken(map[string]any{"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()})
		})(w)
	}
}

// throttledUntil asks to be left alone for half a minute, by a clock that is off and that the answers may not tell.
func throttledUntil(off time.Duration, told bool) func(*faultWorld) {
	return func(w *faultWorld) {
		w.clock.Store(int64(off))
		end := time.Now().Add(30 * time.Second)
		until := end.Add(off).UTC().Format(http.TimeFormat)
		instead(func(rw http.ResponseWriter, r *http.Request) {
			if !told {
				rw.Header()["Date"] = nil
			}
			if time.Now().Before(end) {
				answerWith(429, jsonType, `{}`, "Retry-After", until)(rw, r)
				return
			}
			w.idp.mu.Lock()
			status, m := w.idp.issue(r.PostForm)
			w.idp.mu.Unlock()
			writeJSON(rw, status, m)
		})(w)
	}
}

// idToken sends one along, whose signature may be a stranger's.
func idToken(claims map[string]any, forged bool) func(*faultWorld) {
	return answering(func(w *faultWorld, m map[string]any) {
		if forged {
			stranger := newFakeProvider(w.idp.base)
			m["id_token"] = w.idp.signedIDToken(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: stranger.key, KeyID: w.idp.keyID}}, claims)
			return
		}
		m["id_token"] = w.idp.idToken(claims)
	})
}

// livesFor checks how long the renewed token is taken to live; zero: the provider does not say.
func livesFor(d time.Duration) func(*testing.T, *faultWorld) {
	return func(t *testing.T, w *faultWorld) {
		acc := w.stored("a")
		switch {
		case d == 0 && !acc.Expires.IsZero():
			t.Errorf("ends at %v", acc.Expires)
		case d != 0 && !acc.Expires.Equal(acc.Obtained.Add(d)):
			t.Errorf("lives for %v", acc.Expires.Sub(acc.Obtained))
		}
		if acc.Obtained.After(time.Now()) {
			t.Errorf("obtained at %v", acc.Obtained)
		}
	}
}

func userUnchanged(t *testing.T, w *faultWorld) {
	if acc := w.stored("a"); acc.UserID != "user" || acc.Provider != "idp" {
		t.Errorf("the account is that of %s at %s", acc.UserID, acc.Provider)
	}
}

// Whatever a provider does: a token that lives is handed out at once, a request without one waits for a bounded
// time, the provider is asked seldom, and who was not told to log in again by the provider needs not.
func TestFaultTable(t *testing.T) {
	t.Parallel()
	for name, f := range faults {
		t.Run(name+"/while the token lives", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { f.whileTheTokenLives(t) })
		})
		t.Run(name+"/after it has ended", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { f.afterItHasEnded(t) })
		})
	}
}

// world is one with an account whose token was given age ago, and with the fault.
func (f fault) world(t *testing.T, age time.Duration) *faultWorld {
	t.Helper()
	w := newFaultWorld(t)
	if f.provider != nil {
		w.idp.set(f.provider)
	}
	w.add("a", age, time.Hour, func(acc *tokenstore.Account) { acc.Scopes = []string{"openid", "email"} })
	if !f.unread {
		if _, err := w.provider.metadata.get(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if f.begin != nil {
		f.begin(w)
	}
	return w
}

func (f fault) whileTheTokenLives(t *testing.T) {
	w := f.world(t, 58*time.Minute)
	last := isOld
	for i := range 100 {
		begin := time.Now()
		what, _, err := w.ask("a")
		if d := time.Since(begin); d != 0 {
			t.Fatalf("call %d waits %v", i, d)
		}
		if i == 0 && what != isOld || what != last && what != f.living {
			t.Fatalf("call %d: %s after %s: %v", i, what, last, err)
		}
		last = what
		time.Sleep(time.Second)
	}
	if last != f.living {
		t.Errorf("in the end: %s, want %s", last, f.living)
	}
	if n := w.idp.tokenPosts(); n > f.posts[1] {
		t.Errorf("%d token requests, want at most %d", n, f.posts[1])
	}
	f.afterwards(t, w)
}

func (f fault) afterItHasEnded(t *testing.T) {
	w := f.world(t, 2*time.Hour)
	begin := time.Now()
	what, _, err := w.ask("a")
	if d := time.Since(begin); what != f.first || d > f.within {
		t.Errorf("first call: %s (%v) after %v, want %s within %v", what, err, d, f.first, f.within)
	}
	later := f.later
	if later == "" {
		later = f.first
	}
	for time.Since(begin) < 3*time.Minute {
		last := what
		asked := time.Now()
		what, _, err = w.ask("a")
		if d := time.Since(asked); d > waitTime {
			t.Fatalf("a call waits %v", d)
		}
		if what != last && what != later {
			t.Fatalf("after %v: %s (%v) after %s", time.Since(begin), what, err, last)
		}
		time.Sleep(time.Second)
	}
	if what != later {
		t.Errorf("in the end: %s (%v), want %s", what, err, later)
	}
	if n := w.idp.tokenPosts(); !f.posts.hold(n) {
		t.Errorf("%d token requests, want %v", n, f.posts)
	}
	state := f.state
	if state == "" {
		state = tokenstore.StateActive
	}
	time.Sleep(leaseTime) // a refresh that was begun has ended
	acc := w.stored("a")
	if acc.State != state || (acc.RefreshToken == "") != f.login || f.login && acc.Reason == "" {
		t.Errorf("stored %+v", acc)
	}
	if what == isDown && acc.RefreshToken != "rt.a.0" {
		t.Errorf("stored refresh token %s", acc.RefreshToken)
	}
	f.afterwards(t, w)
}

// afterwards ends the fault, and sees who needs a login, and that it helps.
func (f fault) afterwards(t *testing.T, w *faultWorld) {
	t.Helper()
	if f.check != nil {
		f.check(t, w)
	}
	w.heal()
	posts := w.idp.tokenPosts()
	heals := f.heals
	if heals == 0 {
		heals = time.Minute
	}
	if f.login {
		time.Sleep(2 * time.Hour)
		for range 10 {
			if what, _, err := w.ask("a"); what != isLogin {
				t.Errorf("%s (%v) without a login", what, err)
			}
		}
		if n := w.idp.tokenPosts(); n != posts {
			t.Errorf("%d token requests for an account that has ended", n-posts)
		}
		w.add("b", 2*time.Hour, time.Hour)
		if what, _, err := w.ask("b"); what != isRenewed {
			t.Errorf("%s (%v) after a new login", what, err)
		}
	} else {
		for begin := time.Now(); ; time.Sleep(time.Second) {
			what, token, err := w.ask("a")
			if acc := w.stored("a"); what == isRenewed && acc.AccessToken == token && acc.State == tokenstore.StateActive {
				break
			}
			if what == isLogin || time.Since(begin) > heals+2*time.Second {
				t.Fatalf("%v after the fault's end: %s (%v)", time.Since(begin), what, err)
			}
		}
		time.Sleep(2 * time.Hour) // and on it goes
		if what, _, err := w.ask("a"); what != isRenewed {
			t.Errorf("at the next refresh: %s (%v)", what, err)
		}
		w.idp.mu.Lock()
		newest := fmt.Sprintf("rt.a.%d", w.idp.families["a"].newest)
		w.idp.mu.Unlock()
		if got := w.stored("a").RefreshToken; got != newest {
			t.Errorf("stored refresh token %s, the newest is %s", got, newest)
		}
	}
	w.idp.mu.Lock()
	defer w.idp.mu.Unlock()
	if w.idp.reuses != f.reuses || w.idp.forgiven != f.graced {
		t.Errorf("%d refresh tokens came twice, and %d within the grace; want %d and %d", w.idp.reuses, w.idp.forgiven, f.reuses, f.graced)
	}
}

// pipes is a network in memory: connections that are real to both ends.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	close sync.Once
	idle  func()

	mu     sync.Mutex
	closed bool // nobody listens
	denied int
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	p.mu.Lock()
	if p.closed {
		p.denied++
		p.mu.Unlock()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	p.mu.Unlock()
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// refuse makes nobody listen, nor keep a connection.
func (p *pipes) refuse(refuse bool) {
	p.mu.Lock()
	p.closed = refuse
	p.mu.Unlock()
	if refuse {
		p.idle()
	}
}

func (p *pipes) refused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.denied
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.close.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9} }

// A lease that was taken for the last try is the end only when its process is gone. A process that lives knows what
// came of it, also when the vault could not be told.
func TestVaultFaultInTheLastTryCostsNoLogin(t *testing.T) {
	t.Parallel()
	// onlyTheFirst lets the lease be taken, and nothing be written from then on.
	onlyTheFirst := func(s *memStore) {
		writes := 0
		s.failApply = func([]tokenstore.Change) error {
			if writes++; writes > 1 {
				return tokenstore.ErrUnavailable
			}
			return nil
		}
	}
	for name, tt := range map[string]struct {
		vault  func(*memStore) // what goes wrong there from the last try on
		answer http.HandlerFunc
	}{
		"it is not answered, and that cannot be written": {answer: cut, vault: onlyTheFirst},
		"it fails, and that cannot be written":           {answer: answerWith(500, jsonType, `{}`), vault: onlyTheFirst},
		"its lease is written, and the vault says that it is not": {vault: func(s *memStore) {
			s.failAfter = func([]tokenstore.Change) error { return tokenstore.ErrUnavailable }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := bubbleWorld(t)
				w.add("a", 2*time.Hour, time.Hour)
				w.idp.set(func(p *fakeProvider) { p.answer = cut })
				if _, err := w.accounts.Token(t.Context(), "a"); !isUnavailable(err) {
					t.Fatalf("got %v", err)
				}
				time.Sleep(leaseTime)
				w.idp.set(func(p *fakeProvider) { p.answer = tt.answer })
				tt.vault(w.store)
				if _, err := w.accounts.Token(t.Context(), "a"); !isUnavailable(err) {
					t.Fatalf("got %v", err)
				}
				w.idp.set(func(p *fakeProvider) { p.answer = nil })
				w.store.failApply, w.store.failAfter = nil, nil
				for begin := time.Now(); ; time.Sleep(time.Second) {
					_, err := w.accounts.Token(t.Context(), "a")
					if err == nil {
						break
					}
					if !isUnavailable(err) || time.Since(begin) > 2*lostTime {
						t.Fatalf("after %v: %v", time.Since(begin), err)
					}
				}
				if n := w.idp.reused(); n != 0 {
					t.Errorf("%d refresh tokens came twice", n)
				}
			})
		})
	}
}
