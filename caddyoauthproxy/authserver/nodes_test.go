package authserver_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// sharedStores are ways in which nodes share a vault.
var sharedStores = map[string]func(*testing.T) func(node int) tokenstore.Store{"one file": oneFile}

// onSharedStores runs a test on each of them.
func onSharedStores(t *testing.T, test func(t *testing.T, storeOf func(int) tokenstore.Store)) {
	t.Helper()
	for name, stores := range sharedStores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, stores(t))
		})
	}
}

// machines lets API keys in.
func machines(o *authserver.Options) { o.Proxies[0].Machines = true }

func TestEachStepOfAFlowMayBeAnotherNodes(t *testing.T) {
	t.Parallel()
	for name, flow := range flows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onSharedStores(t, func(t *testing.T, storeOf func(int) tokenstore.Store) {
				w := newNodes(t, 3, storeOf, append([]option{unlimited}, flow.options...)...)
				for range 3 { // so that each step comes to each node
					flow.run(w)
					w.asked.Add(1)
				}
			})
		})
	}
}

func TestCodeIsRedeemedOnceOnAllNodesTogether(t *testing.T) {
	t.Parallel()
	onSharedStores(t, func(t *testing.T, storeOf func(int) tokenstore.Store) {
		w := newNodes(t, 3, storeOf, unlimited)
		b := w.register("")
		for range 10 {
			code := w.login(b)
			answers := w.atOnce(6, func() answer { return w.postForm(endpoints+"/a/token", codeForm(b, code)) })
			var won []tokens
			for _, a := range answers {
				if a.status == http.StatusOK {
					won = append(won, w.tokens(a))
				} else if a.oauthError(t) != "invalid_grant" {
					t.Errorf("lost: %d %s", a.status, a.body)
				}
			}
			if len(won) != 1 {
				t.Fatalf("%d of them won", len(won))
			}
			if _, _, err := w.servers[1].Authenticate(t.Context(), won[0].access, "a"); err != nil {
				t.Errorf("the token: %v", err)
			}
			w.turn(11 * time.Second)
			w.postForm(endpoints+"/a/token", codeForm(b, code))
			w.refusedEverywhere(won[0].access)
		}
	})
}

// atOnce sends n requests at once, each to another node.
func (w *nodes) atOnce(n int, send func() answer) []answer {
	answers, begin := make([]answer, n), make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			<-begin
			answers[i] = send()
		})
	}
	close(begin)
	all.Wait()
	return answers
}

func TestR23RefreshTokenAtSeveralNodesAtOnceIsAnsweredWithOnePair(t *testing.T) {
	t.Parallel()
	onSharedStores(t, func(t *testing.T, storeOf func(int) tokenstore.Store) {
		w := newNodes(t, 3, storeOf, unlimited)
		b, got := w.session()
		for range 10 {
			answers := w.atOnce(6, func() answer { return w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)) })
			next := w.tokens(answers[0])
			for _, a := range answers[1:] {
				if other := w.tokens(a); other != next {
					t.Fatalf("two pairs: %v, %v", next, other)
				}
			}
			got = next
		}
		if _, _, err := w.servers[2].Authenticate(t.Context(), got.access, "a"); err != nil {
			t.Errorf("the last token: %v", err)
		}
	})
}

// The browser may deliver a callback twice, and the balancer each time to another node.
func TestCallbackAtTwoNodesAtOnceIsOneLogin(t *testing.T) {
	t.Parallel()
	onSharedStores(t, func(t *testing.T, storeOf func(int) tokenstore.Store) {
		w := newNodes(t, 3, storeOf, unlimited)
		w.provider.delay = 300 * time.Millisecond
		b, br := w.register(""), w.browser()
		callback := w.callbackURL(br.allow(br.authorize(authorizeParams(b))))
		answers := w.atOnce(3, func() answer { return br.get(callback) })
		for _, a := range answers {
			if location(t, a).Query().Get("code") == "" || a.header.Get("Location") != answers[0].header.Get("Location") {
				t.Errorf("%d to %s", a.status, a.header.Get("Location"))
			}
		}
		if n := w.provider.tokenRequests(); n != 1 {
			t.Errorf("the provider's code was sent %d times", n)
		}
	})
}

// A node that dies with a login in its hands leaves the claim behind.
func TestLoginOfANodeThatDiedIsTakenOver(t *testing.T) {
	t.Parallel()
	w := newNodes(t, 2, oneFile(t), unlimited, func(o *authserver.Options) { o.Lifetimes.Login = time.Hour })
	b, br := w.register(""), w.browser()
	callback := w.callbackURL(br.allow(br.authorize(authorizeParams(b))))
	login, err := w.vault.Login(t.Context(), w.vault.Hash("state", state(t, callback)))
	if err != nil {
		t.Fatal(err)
	}
	login.Claimed, login.Claim, login.Answer = w.vault.Now(), "of a node that died", w.vault.Hash("provider_code", "provider-code")
	if err := w.vault.Commit(t.Context(), tokenstore.Save(login)); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan answer)
	go func() { waiting <- br.get(callback) }()
	select {
	case a := <-waiting:
		t.Fatalf("it was not waited for: %d to %s", a.status, a.header.Get("Location"))
	case <-time.After(400 * time.Millisecond):
	}
	w.turn(2 * time.Minute)
	if a := <-waiting; location(t, a).Query().Get("code") == "" {
		t.Errorf("%d to %s", a.status, a.header.Get("Location"))
	}
}

func TestWhatIsEndedAtOneNodeIsRefusedAtAllOthers(t *testing.T) {
	t.Parallel()
	onSharedStores(t, func(t *testing.T, storeOf func(int) tokenstore.Store) {
		w := newNodes(t, 3, storeOf, unlimited, machines)
		b, got := w.session()
		_, other := w.session()
		key, made := w.newKey(authserver.NewAPIKey{Proxies: []string{"a"}})
		for _, s := range w.servers {
			for _, token := range []string{got.access, other.access, key} {
				if _, _, err := s.Authenticate(t.Context(), token, "a"); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.at(1)
		w.postForm(endpoints+"/revoke", url.Values{"token": {got.access}, "client_id": {b.id}, "client_secret": {b.secret}})
		if _, _, err := w.servers[1].Authenticate(t.Context(), got.access, "a"); !errors.Is(err, authserver.ErrInvalidToken) {
			t.Errorf("the next request at the node that ended it: %v", err)
		}
		if _, err := w.servers[1].RevokeAPIKey(t.Context(), made.ID); err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.servers[1].Authenticate(t.Context(), key, "a"); !errors.Is(err, authserver.ErrInvalidToken) {
			t.Errorf("the next request with the key at the node that ended it: %v", err)
		}
		if _, err := w.servers[2].RevokeGrants(t.Context(), authserver.RevocationFilter{All: true}, "ann", "a leak"); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(time.Second)
		for _, s := range w.servers {
			for _, token := range []string{got.access, other.access, key} {
				for _, _, err := s.Authenticate(t.Context(), token, "a"); !errors.Is(err, authserver.ErrInvalidToken); _, _, err = s.Authenticate(t.Context(), token, "a") {
					if time.Now().After(deadline) {
						t.Fatalf("taken after a second: %v", err)
					}
					time.Sleep(5 * time.Millisecond)
				}
			}
		}
	})
}

// countedStore counts reads of the signing keys, and reads that are not from memory, and can keep its watchers in the dark.
type countedStore struct {
	tokenstore.Store
	keys, strict atomic.Int64
	dark         bool
	broken       atomic.Bool
}

func (s *countedStore) Get(ctx context.Context, kind tokenstore.Kind, id string) (tokenstore.Row, error) {
	s.strict.Add(1)
	if kind == tokenstore.KindSigningKeys {
		s.keys.Add(1)
		if s.broken.Load() {
			return tokenstore.Row{}, tokenstore.ErrUnavailable
		}
	}
	return s.Store.Get(ctx, kind, id)
}

func (s *countedStore) Watch(kind tokenstore.Kind, changed func(string)) func() {
	if s.dark {
		return func() {}
	}
	return s.Store.Watch(kind, changed)
}

func TestRequestsAreJudgedFromMemory(t *testing.T) {
	t.Parallel()
	store := &countedStore{Store: oneFile(t)(0)}
	w := newNodes(t, 1, func(int) tokenstore.Store { return store }, unlimited, machines)
	_, got := w.session()
	key, made := w.newKey(authserver.NewAPIKey{Proxies: []string{"a"}})
	before := store.strict.Load()
	grant, _, err := w.server.Authenticate(t.Context(), got.access, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.server.Authenticate(t.Context(), key, "a"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{grant.ID, made.ID} {
		if err := w.server.CheckGrant(t.Context(), id, "a"); err != nil || w.server.Ended(t.Context(), id) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if n := store.strict.Load() - before; n != 0 {
		t.Errorf("%d reads past the memory", n)
	}
}

func TestRotatedSigningKeyIsKnownToEveryNodeWithinASecond(t *testing.T) {
	t.Parallel()
	onSharedStores(t, func(t *testing.T, storeOf func(int) tokenstore.Store) {
		w := newNodes(t, 3, storeOf, unlimited)
		b, old := w.session()
		for i, compromised := range []bool{false, true} {
			if err := w.servers[i].RotateSigningKey(t.Context(), compromised); err != nil {
				t.Fatal(err)
			}
			newest := w.servers[i].SigningKeys()
			deadline := time.Now().Add(time.Second)
			for _, s := range w.servers {
				for keys := s.SigningKeys(); len(keys) != len(newest) || keys[0].ID != newest[0].ID; keys = s.SigningKeys() {
					if time.Now().After(deadline) {
						t.Fatalf("a second after the rotation: %v, want %v", keys, newest)
					}
					time.Sleep(5 * time.Millisecond)
				}
			}
		}
		w.refusedEverywhere(old.access)
		w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, old.refresh)))
	})
}

// A node may see a token before it is told of the key.
func TestT53TokenOfAKeyThatANodeDoesNotKnowYetIsTakenAndMadeUpOnesCostNothing(t *testing.T) {
	t.Parallel()
	file := oneFile(t)(0)
	dark := &countedStore{Store: file, dark: true}
	w := newNodes(t, 2, func(node int) tokenstore.Store {
		if node == 1 {
			return dark
		}
		return file
	}, unlimited)
	w.at(0)
	b, got := w.session()
	rotate := func() tokens {
		if err := w.servers[0].RotateSigningKey(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
		return got
	}
	if _, _, err := w.servers[1].Authenticate(t.Context(), rotate().access, "a"); err != nil {
		t.Errorf("the token of a new key: %v", err)
	}
	before := dark.keys.Load()
	header, rest, _ := strings.Cut(got.access, ".")
	forged := header[:40] + "QUFB" + header[44:] + "." + rest // three letters of the key's id
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if _, _, err := w.servers[1].Authenticate(t.Context(), forged, "a"); !errors.Is(err, authserver.ErrInvalidToken) {
				t.Errorf("a forged token: %v", err)
			}
		})
	}
	all.Wait()
	if n := dark.keys.Load() - before; n > 3 {
		t.Errorf("200 forged tokens had the keys read %d times", n)
	}
	before = dark.keys.Load()
	for began, i := time.Now(), 0; i < 5; i++ { // one after the other
		if _, _, err := w.servers[1].Authenticate(t.Context(), forged, "a"); !errors.Is(err, authserver.ErrInvalidToken) {
			t.Errorf("a forged token: %v", err)
		}
		if n, most := dark.keys.Load()-before, int64(time.Since(began)/(250*time.Millisecond))+1; n > most {
			t.Errorf("the keys were read %d times in %s", n, time.Since(began))
		}
	}
	dark.broken.Store(true)
	access := rotate().access
	if _, _, err := w.servers[1].Authenticate(t.Context(), access, "a"); err == nil || errors.Is(err, authserver.ErrInvalidToken) {
		t.Errorf("while the vault does not answer: %v", err)
	}
	dark.broken.Store(false)
	if _, _, err := w.servers[1].Authenticate(t.Context(), access, "a"); err != nil {
		t.Errorf("after that: %v", err)
	}
}
