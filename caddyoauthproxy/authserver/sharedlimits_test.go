package authserver_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// countedRates are counters that all nodes share, which can be out of order.
type countedRates struct {
	mu     sync.Mutex
	taken  map[string]time.Time // when the bucket is empty again
	takes  int
	backs  int
	broken bool
	hangs  bool
}

func (r *countedRates) Take(ctx context.Context, key string, interval, window time.Duration) (time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.takes++
	if r.hangs {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	if r.broken {
		return 0, errors.New("out of order")
	}
	if r.taken == nil {
		r.taken = make(map[string]time.Time)
	}
	now, empty := time.Now(), r.taken[key]
	if empty.Before(now) {
		empty = now
	}
	if wait := empty.Add(interval).Sub(now) - window; wait > 0 {
		return wait, nil
	}
	r.taken[key] = empty.Add(interval)
	return 0, nil
}

func (r *countedRates) GiveBack(_ context.Context, key string, interval time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.backs++
	if r.broken {
		return errors.New("out of order")
	}
	r.taken[key] = r.taken[key].Add(-interval)
	return nil
}

// counted are how often they were asked.
func (r *countedRates) counted() (takes, backs int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.takes, r.backs
}

func limited(r *countedRates, l authserver.Limits) option {
	return func(o *authserver.Options) { o.Rates, o.Limits = r, l }
}

func TestNodesCountTogether(t *testing.T) {
	t.Parallel()
	rates := new(countedRates)
	w := newNodes(t, 3, oneFile(t), limited(rates, authserver.Limits{Register: authserver.Rate{Events: 6, Window: time.Hour}}), addressed)
	register := func(address string) int {
		return w.postJSON(endpoints+"/a/register", plainRegistration, from(address)).status
	}
	for i := range 6 {
		if status := register("192.0.2.7"); status != http.StatusCreated {
			t.Fatalf("registration %d: %d", i, status)
		}
	}
	for range 3 { // each node
		if status := register("192.0.2.7"); status != http.StatusTooManyRequests {
			t.Errorf("one too many: %d", status)
		}
	}
	takes, _ := rates.counted()
	for range 30 { // which each node knows by now
		if status := register("192.0.2.7"); status != http.StatusTooManyRequests {
			t.Errorf("one too many: %d", status)
		}
	}
	if again, _ := rates.counted(); again != takes {
		t.Errorf("a flood reached the shared counters %d times", again-takes)
	}
	if status := register("192.0.2.8"); status != http.StatusCreated {
		t.Errorf("another address: %d", status)
	}
	for key := range rates.taken {
		if strings.Contains(key, "192.0.2") || strings.ContainsAny(key, " \n") || len(key) > 128 {
			t.Errorf("key %q", key)
		}
	}
}

func TestRequestsThatSucceedCountNowhere(t *testing.T) {
	t.Parallel()
	rates := new(countedRates)
	w := newNodes(t, 2, oneFile(t), limited(rates, authserver.Limits{Token: authserver.Rate{Events: 2, Window: time.Hour}}))
	b, got := w.session()
	for range 6 {
		got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	}
	if _, backs := rates.counted(); backs == 0 {
		t.Error("nothing was given back")
	}
	for range 2 {
		w.postForm(endpoints+"/a/token", refreshForm(b, "gwr_none"))
	}
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); a.status != http.StatusTooManyRequests {
		t.Errorf("after two failures: %d %s", a.status, a.body)
	}
}

func TestSharedCountersThatDoNotAnswerRefuseNobody(t *testing.T) {
	t.Parallel()
	for name, rates := range map[string]*countedRates{"errors": {broken: true}, "silence": {hangs: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newNodes(t, 2, oneFile(t), limited(rates, authserver.Limits{Register: authserver.Rate{Events: 3, Window: time.Hour}}))
			w.at(0)
			began := time.Now()
			for i := range 3 {
				if a := w.postJSON(endpoints+"/a/register", plainRegistration); a.status != http.StatusCreated {
					t.Fatalf("registration %d: %d %s", i, a.status, a.body)
				}
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("it took %s", took)
			}
			if takes, _ := rates.counted(); takes != 1 {
				t.Errorf("they were asked %d times in a row", takes)
			}
			if a := w.postJSON(endpoints+"/a/register", plainRegistration); a.status != http.StatusTooManyRequests {
				t.Errorf("the node's own count: %d", a.status)
			}
		})
	}
}

func TestRequestsThatTheirClientsCutCountAllTheSame(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *authserver.Options) { o.Limits.Register = authserver.Rate{Events: 3, Window: time.Hour} })
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	statuses := make([]int, 0, 6)
	for range 6 {
		r := httptest.NewRequest(http.MethodPost, w.url+endpoints+"/a/register", strings.NewReader(plainRegistration)).WithContext(cut)
		r.Header.Set("Content-Type", "application/json")
		answered := httptest.NewRecorder()
		w.server.ServeHTTP(answered, r)
		statuses = append(statuses, answered.Code)
	}
	if statuses[0] != http.StatusServiceUnavailable || statuses[5] != http.StatusTooManyRequests {
		t.Errorf("answers %v", statuses)
	}
}

func TestWhatWasTakenBackIsNotTakenBackAgainWhenTheVaultFailsLater(t *testing.T) {
	t.Parallel()
	rates := new(countedRates)
	w, s := meddledWorld(t, limited(rates, authserver.Limits{Token: authserver.Rate{Events: 100, Window: time.Hour}}))
	token, _ := w.scriptSession()["session_token"].(string)
	takes, backs := rates.counted()
	s.kind = tokenstore.KindGrant
	s.refuse.Store(true)
	if a := w.post("/logout", token); a.status != http.StatusServiceUnavailable {
		t.Fatalf("logout: %d %s", a.status, a.body)
	}
	if t2, b2 := rates.counted(); t2-takes != 1 || b2-backs != 1 {
		t.Errorf("counted %d times, and taken back %d times", t2-takes, b2-backs)
	}
}
