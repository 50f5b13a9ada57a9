package upstream

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// world is a provider, a vault, and Accounts between them. In a bubble the provider is reached in memory.
type world struct {
	t         *testing.T
	idp       *fakeProvider
	transport *inMemory // nil when the provider is on a real port
	store     *memStore
	clock     *clock
	key       tokenstore.RootKey
	vault     *tokenstore.Vault
	provider  *Provider
	accounts  *Accounts
	logs      *observer.ObservedLogs
	events    recordedEvents
}

// realWorld speaks HTTP.
func realWorld(t *testing.T) *world {
	t.Helper()
	return newWorld(t, serve(t), nil)
}

// bubbleWorld has its own time. It is for synctest.
func bubbleWorld(t *testing.T) *world {
	t.Helper()
	t.Cleanup(func() { time.Sleep(10 * time.Minute) }) // answers that nobody waits for any more end too
	idp := newFakeProvider("https://idp.example")
	return newWorld(t, idp, &inMemory{handler: idp})
}

func newWorld(t *testing.T, idp *fakeProvider, transport *inMemory) *world {
	t.Helper()
	w := &world{t: t, idp: idp, transport: transport, store: newMemStore(), clock: new(clock), key: tokenstore.NewRootKey()}
	var client *http.Client
	if transport != nil {
		client = &http.Client{Transport: transport}
	}
	w.vault = openRecordedVault(t, w.store, w.key, w.clock.now, w.events.add)
	w.provider = idp.providerOver(t, client)
	w.accounts = w.node()
	return w
}

// node is one more process on the same vault.
func (w *world) node(changes ...func(*AccountsOptions)) *Accounts {
	w.t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	w.logs = logs
	o := AccountsOptions{Vault: w.vault, Providers: map[string]*Provider{"idp": w.provider}, Logger: zap.New(core)}
	for _, change := range changes {
		change(&o)
	}
	a := NewAccounts(o)
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = a.Close(ctx)
	})
	return a
}

// add stores an account whose token was given age ago and lives for life; zero means that its end is unknown.
func (w *world) add(id string, age, life time.Duration, changes ...func(*tokenstore.Account)) *tokenstore.Account {
	w.t.Helper()
	acc := &tokenstore.Account{
		Meta: tokenstore.Meta{ID: id}, State: tokenstore.StateActive, Provider: "idp", UserID: "user",
		AccessToken: "at." + id + ".0", RefreshToken: w.idp.login(id), Scopes: []string{"openid"},
		Obtained: w.vault.Now().Add(-age), Identity: w.provider.Identity(),
	}
	if life > 0 {
		acc.Expires = acc.Obtained.Add(life)
	}
	for _, change := range changes {
		change(acc)
	}
	if err := w.vault.Commit(w.t.Context(), tokenstore.Save(acc)); err != nil {
		w.t.Fatal(err)
	}
	return acc
}

func (w *world) stored(id string) *tokenstore.Account {
	w.t.Helper()
	acc, err := w.vault.Account(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return acc
}

// token insists on a token.
func (w *world) token(id string) string {
	w.t.Helper()
	token, err := w.accounts.Token(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// eventually polls until ok, for what happens in the background.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func isUnavailable(err error) bool {
	var e *UnavailableError
	return errors.As(err, &e) && e.RetryAfter >= time.Second && !errors.Is(err, ErrNeedsReauth)
}

// revoke ends an account here and, if it can, at the provider.
func (w *world) revoke(ctx context.Context, id string) error {
	tell, err := w.accounts.End(ctx, id)
	if err != nil {
		return err
	}
	return tell(ctx)
}
