package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A provider that is down or talks nonsense costs nobody the login: tokens that live are used, others answer
// 503, the provider is asked seldom, and when it is back all goes on.
func TestR07OutageCostsNoLogin(t *testing.T) {
	t.Parallel()
	tests := map[string]http.HandlerFunc{
		"refused":            nil,
		"500":                answerWith(500, jsonType, `{"error":"server_error"}`),
		"502 page":           answerWith(502, "text/html", `<html>Bad gateway</html>`),
		"firewall":           answerWith(403, "text/html", `<html>Blocked</html>`),
		"200 page":           answerWith(200, "text/html", `<html>Maintenance</html>`),
		"throttled":          answerWith(429, jsonType, `{}`, "Retry-After", "20"),
		"refuses the client": answerWith(401, jsonType, `{"error":"invalid_client"}`),
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := bubbleWorld(t)
				const users = 20
				for i := range users {
					w.add(fmt.Sprintf("u%d", i), 2*time.Hour, time.Hour)
				}
				w.add("valid", 30*time.Minute, time.Hour)
				if _, err := w.provider.metadata.get(t.Context()); err != nil {
					t.Fatal(err)
				}
				w.idp.set(func(p *fakeProvider) { p.answer = answer })
				w.transport.setRefuse(answer == nil)
				before := w.transport.dials()

				for range 20 * 60 { // twenty minutes, one call of each user a second
					for i := range users {
						_, err := w.accounts.Token(t.Context(), fmt.Sprintf("u%d", i))
						var e *UnavailableError
						if !isUnavailable(err) || !errors.As(err, &e) || e.RetryAfter > time.Minute+time.Second {
							t.Fatalf("got %v", err)
						}
					}
					if got := w.token("valid"); got != "at.valid.0" {
						t.Fatalf("got %s", got)
					}
					time.Sleep(time.Second)
				}
				if n := w.transport.dials() - before; n < 15 || n > 60 {
					t.Errorf("asked %d times in 20 minutes", n)
				}

				w.idp.set(func(p *fakeProvider) { p.answer = nil })
				w.transport.setRefuse(false)
				time.Sleep(time.Minute)
				for i := range users {
					id := fmt.Sprintf("u%d", i)
					for range 70 { // those that failed by themselves pause by themselves
						if _, err := w.accounts.Token(t.Context(), id); err == nil {
							break
						}
						time.Sleep(time.Second)
					}
					if acc := w.stored(id); acc.State != tokenstore.StateActive || acc.AccessToken != "at."+id+".1" {
						t.Errorf("stored %+v", acc)
					}
				}
				if w.idp.reused() != 0 {
					t.Errorf("%d refresh tokens came twice", w.idp.reused())
				}
			})
		})
	}
}

// The first requests after an outage do not all go to the provider: one sees whether it is back.
func TestR07OneProbeAfterAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		if _, err := w.provider.metadata.get(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			w.add(fmt.Sprintf("u%d", i), 2*time.Hour, time.Hour)
		}
		w.transport.setRefuse(true)
		if _, err := w.accounts.Token(t.Context(), "u0"); !isUnavailable(err) {
			t.Fatalf("got %v", err)
		}
		w.transport.setRefuse(false)
		slowly(w.idp, 500*time.Millisecond)
		time.Sleep(2 * time.Second)
		refused := make(chan error, 10)
		for i := range 10 {
			go func() {
				_, err := w.accounts.Token(t.Context(), fmt.Sprintf("u%d", i))
				refused <- err
			}()
		}
		synctest.Wait()
		if n := w.idp.tokenPosts(); n != 1 {
			t.Errorf("%d probes", n)
		}
		served := 0
		for range 10 {
			if err := <-refused; err == nil {
				served++
			} else if !isUnavailable(err) {
				t.Errorf("got %v", err)
			}
		}
		if served != 1 {
			t.Errorf("%d served", served)
		}
		for i := range 10 {
			w.token(fmt.Sprintf("u%d", i))
		}
	})
}

// Refreshes that wait for a place when the provider fails do not go there any more.
func TestR07FailureStopsThoseWhoWaitForAPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.idp.answer = func(rw http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			rw.WriteHeader(http.StatusBadGateway)
		}
		refused := make(chan error, 200)
		for i := range cap(refused) {
			id := fmt.Sprintf("u%d", i)
			w.add(id, 2*time.Hour, time.Hour)
			go func() {
				_, err := w.accounts.Token(t.Context(), id)
				refused <- err
			}()
		}
		for range cap(refused) {
			if err := <-refused; !isUnavailable(err) {
				t.Errorf("got %v", err)
			}
		}
		if n := w.idp.tokenPosts(); n < maxParallel || n >= maxParallel+outageAfter {
			t.Errorf("asked %d times", n)
		}
	})
}

// An account that the provider trips over does not keep the others from theirs.
func TestOneBadAccountDoesNotBlockTheProvider(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"500":           answerWith(500, jsonType, `{}`),
		"invalid_scope": answerWith(400, jsonType, `{"error":"invalid_scope"}`),
	} {
		synctest.Test(t, func(t *testing.T) {
			w := bubbleWorld(t)
			w.idp.answer = func(rw http.ResponseWriter, r *http.Request) {
				if r.PostForm.Get("refresh_token") == "rt.bad.0" {
					answer(rw, r)
					return
				}
				w.idp.mu.Lock()
				status, m := w.idp.issue(r.PostForm)
				w.idp.mu.Unlock()
				writeJSON(rw, status, m)
			}
			w.add("bad", 2*time.Hour, time.Hour)
			waits := 0
			for i := range 100 {
				_, _ = w.accounts.Token(t.Context(), "bad") // it is the first to ask, each time
				id := fmt.Sprintf("u%d", i)
				w.add(id, 2*time.Hour, time.Hour)
				for ; ; waits++ {
					if _, err := w.accounts.Token(t.Context(), id); err == nil {
						break
					} else if !isUnavailable(err) {
						t.Fatal(err)
					}
					time.Sleep(time.Second)
				}
				time.Sleep(2 * time.Second)
			}
			if waits != 0 {
				t.Errorf("%s: others waited %d s in all", name, waits)
			}
			if w.stored("bad").State != tokenstore.StateActive {
				t.Errorf("%s: the bad account was given up", name)
			}
		})
	}
}

// Nobody else is there to show that the provider is well, and still one account's failures are its own.
func TestOneBadAccountAloneIsNoOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := bubbleWorld(t)
		w.add("bad", 2*time.Hour, time.Hour)
		w.add("good", 2*time.Hour, time.Hour)
		w.idp.set(func(p *fakeProvider) { p.answer = answerWith(500, jsonType, `{}`) })
		for range 10 * 60 {
			if _, err := w.accounts.Token(t.Context(), "bad"); !isUnavailable(err) {
				t.Fatalf("got %v", err)
			}
			time.Sleep(time.Second)
		}
		if n := w.idp.tokenPosts(); n > 20 {
			t.Errorf("asked %d times in ten minutes", n)
		}
		w.idp.set(func(p *fakeProvider) { p.answer = nil })
		if got := w.token("good"); got != "at.good.1" {
			t.Errorf("got %s", got)
		}
	})
}

// What speaks for the whole provider keeps all others away at once. What may be a slip does so when it met several in a
// row, and a success in between says that it was one.
func TestR07OutageIsRecognised(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		begin  func(*faultWorld)
		unread bool // the provider's documents have not been read before
		atOnce bool
		late   time.Duration // how long after the request was answered it shows
		twice  bool          // who asks tries a second time
	}{
		"connection refused":    {begin: func(w *faultWorld) { w.pipes.refuse(true) }, atOnce: true},
		"429":                   {begin: instead(answerWith(429, jsonType, `{}`)), atOnce: true},
		"429 with a time":       {begin: instead(answerWith(429, jsonType, `{}`, "Retry-After", "60")), atOnce: true},
		"slow_down":             {begin: instead(answerWith(400, jsonType, `{"error":"slow_down"}`)), atOnce: true},
		"503 with a time":       {begin: instead(answerWith(503, jsonType, `{}`, "Retry-After", "60")), atOnce: true},
		"discovery answers 502": {begin: discovery(answerWith(502, "text/html", `<html>Bad gateway</html>`)), unread: true, atOnce: true},
		"discovery cut":         {begin: discovery(cut), unread: true, atOnce: true},
		"500":                   {begin: instead(answerWith(500, jsonType, `{}`))},
		"503 without a time":    {begin: instead(answerWith(503, jsonType, `{}`))},
		"page of a firewall":    {begin: instead(answerWith(403, "text/html", `<html>Blocked</html>`))},
		"connection cut":        {begin: instead(cut), twice: true},
		"timeout":               {begin: instead(hang), late: DefaultTimeout - waitTime},
		"truncated JSON":        {begin: instead(answerWith(200, jsonType, `{"access_token":"at.`))},
		"invalid_client":        {begin: instead(answerWith(401, jsonType, `{"error":"invalid_client"}`))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newFaultWorld(t)
				var asked atomic.Int32
				w.accounts = w.node(func(o *AccountsOptions) { o.Acts.Refreshed = func(string, Class, time.Duration) { asked.Add(1) } })
				users := 0
				fails := func(n int) {
					t.Helper()
					for range n {
						users++
						id := fmt.Sprintf("u%d", users)
						w.add(id, 2*time.Hour, time.Hour)
						if _, err := w.accounts.Token(t.Context(), id); !isUnavailable(err) {
							t.Fatalf("%s: got %v", id, err)
						}
					}
					time.Sleep(tt.late)
					synctest.Wait()
				}
				if !tt.unread {
					if _, err := w.provider.metadata.get(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				tt.begin(w)
				if tt.atOnce {
					fails(5)
					if n := asked.Load(); n != 1 {
						t.Errorf("%d of five asked the provider", n)
					}
					return
				}
				fails(outageAfter - 1)
				w.heal()
				w.add("good", 2*time.Hour, time.Hour)
				if got := w.token("good"); got != "at.good.1" {
					t.Errorf("got %s", got)
				}
				tt.begin(w)
				asked.Store(0)
				fails(outageAfter)
				want := int32(outageAfter)
				if tt.twice {
					want *= 2
				}
				if n := asked.Load(); n != want {
					t.Errorf("%d asked the provider after a success", n)
				}
				tt.late = 0
				fails(5)
				if n := asked.Load(); n != want {
					t.Errorf("%d asked the provider in an outage", n)
				}
			})
		})
	}
}

func TestBackoffDoublesToItsLimitAndCountsABurstOnce(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	b := backoff{limit: time.Minute}
	for i, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		want := time.Duration(seconds) * time.Second
		for range 32 { // a burst of attempts that ran side by side
			b.failed(now, 0)
		}
		if got := b.wait(now); got > want || got < want*3/4 {
			t.Errorf("failure %d: waits %v, want up to %v", i+1, got, want)
		}
		now = now.Add(want)
	}
	b.failed(now, 10*time.Minute)
	if got := b.wait(now); got != 10*time.Minute {
		t.Errorf("waits %v though asked for 10 min", got)
	}
	if got := b.wait(now.Add(-48 * time.Hour)); got > maxRetryAfter {
		t.Errorf("waits %v after the clock was set back", got)
	}
}

func TestR25PausesOfManyAccountsAreForgotten(t *testing.T) {
	t.Parallel()
	w := realWorld(t)
	now := time.Now()
	for i := range 3 * maxPauses {
		w.accounts.failed(fmt.Sprintf("u%d", i), now.Add(time.Duration(i)*time.Second), 0)
	}
	if n := len(w.accounts.pauses); n > maxPauses {
		t.Errorf("%d are remembered", n)
	}
}

// A refresh that the upstream's 401 forced, and that failed for want of the provider, has renewed nothing: the user is not told to log in again.
func TestR07ForcedRefreshOfAProviderThatIsDownIsNoRejection(t *testing.T) {
	t.Parallel()
	for name, life := range map[string]time.Duration{"known end": time.Hour, "unknown end": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := bubbleWorld(t)
				w.add("a", time.Minute, life)
				w.idp.set(func(p *fakeProvider) { p.answer = answerWith(503, jsonType, `{}`) })
				for range 3 {
					if _, err := w.accounts.Rejected(t.Context(), "a", "at.a.0"); !isUnavailable(err) {
						t.Errorf("got %v", err)
					}
					time.Sleep(2 * time.Second)
				}
				w.idp.set(func(p *fakeProvider) { p.answer = nil })
				time.Sleep(10 * time.Second)
				if got, err := w.accounts.Rejected(t.Context(), "a", "at.a.0"); err != nil || got != "at.a.1" {
					t.Errorf("got %s, %v", got, err)
				}
				if _, err := w.accounts.Rejected(t.Context(), "a", "at.a.1"); !errors.Is(err, ErrStillRejected) {
					t.Errorf("a renewed one that is refused: %v", err)
				}
			})
		})
	}
}
