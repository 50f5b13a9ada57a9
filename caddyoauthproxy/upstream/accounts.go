package upstream

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// DefaultRefreshBefore is how long before its end a token is refreshed.
const DefaultRefreshBefore = 5 * time.Minute

const (
	// waitTime bounds how long a request waits for a refresh that it needs.
	waitTime = 20 * time.Second

	// forcedEvery is how often at most an account is refreshed because the upstream refuses its token.
	forcedEvery = time.Minute

	// maxPauses is how many accounts' pauses are remembered before the old ones are forgotten.
	maxPauses = 4096
)

// AccountsOptions are what Accounts works with.
type AccountsOptions struct {
	// Vault keeps the accounts, and is the clock.
	Vault *tokenstore.Vault

	// Providers are the configured providers by name.
	Providers map[string]*Provider

	// RefreshBefore is how long before its end a token is refreshed in the background, while it is
	// still handed out. Never more than half of a token's life, so that tokens which live for seconds are not
	// refreshed with every call; and up to a fifth less, by account and node, so that they are not refreshed all at once. Default: DefaultRefreshBefore.
	RefreshBefore time.Duration

	// Acts are told of what happens to accounts.
	Acts Acts

	// Logger gets refreshes and failures, never a token. Default: none.
	Logger *zap.Logger

	// Acquire, where given, is called before each refresh and keeps the vault open until release is
	// called. Refreshes outlive the requests that began them.
	Acquire func() (release func(), err error)

	lease time.Duration // of tests; default: leaseTime
}

// Accounts hands out the access tokens of accounts and keeps them fresh. It is safe for
// concurrent use, also of several Accounts, in this process and in others, on one vault:
// a refresh token is spent under a lease that is written to the vault first.
//
// Leases are judged by the vault's clock, whatever those of the processes say. A process that dies, or is stopped for longer than a lease, between the
// provider's answer and its saving takes the new tokens with it: another then tries the old refresh token a last time.
type Accounts struct {
	vault     *tokenstore.Vault
	providers map[string]*Provider
	before    time.Duration
	log       *zap.Logger
	acquire   func() (release func(), err error)
	acts      Acts
	lease     time.Duration
	turn      string // of this node, among those that see an account become due
	waiters   waiters
	unwatch   func()

	// ctx is that of all flights; it ends with Close's deadline.
	ctx     context.Context
	cancel  context.CancelFunc
	closing chan struct{}
	work    sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	gates   map[string]*gate // by provider and authorization server
	flights map[string]*flight
	pauses  map[string]*backoff

	// needed are the flights that everybody must wait for, and unsaved the accounts whose renewed tokens are not saved yet, by account's id. They are
	// changed with mu held, and read by every request without it.
	needed  sync.Map // of *flight
	unsaved sync.Map // of *tokenstore.Account

	// inconclusive are leases by account of which this process knows more than the vault: they did not end the account.
	inconclusive map[string]string
}

// NewAccounts makes an Accounts, which watches the vault's accounts until Close or StopWatching. It uses no network.
func NewAccounts(o AccountsOptions) *Accounts {
	a := &Accounts{
		vault:     o.Vault,
		providers: o.Providers,
		gates:     make(map[string]*gate),
		before:    o.RefreshBefore,
		log:       o.Logger,
		acquire:   o.Acquire,
		acts:      o.Acts,
		lease:     cmp.Or(o.lease, leaseTime),
		turn:      rand.Text(),
		closing:   make(chan struct{}),
		flights:   make(map[string]*flight),
		pauses:    make(map[string]*backoff),

		inconclusive: make(map[string]string),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	if a.before <= 0 {
		a.before = DefaultRefreshBefore
	}
	if a.log == nil {
		a.log = zap.NewNop()
	}
	a.acts.setDefaults()
	if a.acquire == nil {
		a.acquire = func() (func(), error) { return func() {}, nil }
	}
	for _, p := range o.Providers {
		p.clients.keepIn(o.Vault)
	}
	a.unwatch = o.Vault.WatchAccounts(a.waiters.wake)
	return a
}

// Token returns the account's access token. A token that ends soon is returned and refreshed in the
// background; for one that has ended the call waits for the refresh, up to 20 s and ctx. Its
// errors are ErrNeedsReauth and *UnavailableError.
func (a *Accounts) Token(ctx context.Context, accountID string) (string, error) {
	if f := a.joinNeeded(accountID); f != nil {
		return a.waitForOthers(ctx, f)
	}
	acc, kept, err := a.recall(ctx, accountID)
	if err != nil {
		return "", err
	}
	now := a.vault.Now()
	switch {
	case over(acc):
		return "", needsReauth(acc)
	case valid(acc, now) && (kept || !a.due(acc, now) || a.leased(acc, now) || a.pause(acc, now) > 0):
		return acc.AccessToken, nil
	case valid(acc, now):
		a.begin(ctx, acc, "")
		return acc.AccessToken, nil
	case kept:
		return "", unavailable(time.Second, errNotSaved)
	default: // the flight looks at the account first, and has nothing to do where another node has renewed the token
		return a.need(ctx, acc)
	}
}

// recall returns the account as this process remembers it, which is for handing out a token that is good and for nothing else: what would have the user log
// in again is read anew.
func (a *Accounts) recall(ctx context.Context, id string) (acc *tokenstore.Account, kept bool, err error) {
	if acc, kept = a.unsavedAccount(id); kept {
		return acc, true, nil
	}
	acc, err = a.vault.RecallAccount(ctx, id)
	switch {
	case err == nil && !over(acc) && !acc.Unstored && !a.withholds(acc):
		return acc, false, nil
	case err == nil, errors.Is(err, tokenstore.ErrNotFound), errors.Is(err, tokenstore.ErrTampered):
		return a.account(ctx, id)
	default:
		return nil, false, a.vaultError(id, err)
	}
}

// Rejected says that the upstream answered 401 to a token of the account, and returns another one to try once. The
// account is refreshed for that at most once a minute. Its errors are those of Token,
// and ErrStillRejected when that refresh has been and did not help.
func (a *Accounts) Rejected(ctx context.Context, accountID, token string) (string, error) {
	for range 2 { // the first flight may be one that began before and does not know of the rejection
		acc, kept, err := a.account(ctx, accountID)
		if err != nil {
			return "", err
		}
		now := a.vault.Now()
		switch {
		case over(acc):
			return "", needsReauth(acc)
		case valid(acc, now) && acc.AccessToken != token:
			return acc.AccessToken, nil
		case kept:
			return "", unavailable(time.Second, errNotSaved)
		case !a.refreshable(acc):
			return "", &ReauthError{Reason: reasonNoRefresh}
		case valid(acc, now) && acc.State != tokenstore.StateRefreshing && forcedLately(acc, now):
			return "", ErrStillRejected
		}
		renewed, err := a.join(ctx, acc, token)
		if err != nil || renewed != token {
			return renewed, err
		}
	}
	return "", ErrStillRejected
}

// Close begins no more refreshes and waits until those in flight are saved, until ctx ends.
// Then it gives up, and says how many renewed tokens are lost.
func (a *Accounts) Close(ctx context.Context) error {
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		close(a.closing)
	}
	a.mu.Unlock()
	done := make(chan struct{})
	go func() {
		a.work.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	a.cancel()
	<-done // what is still to be written has settleTime
	a.unwatch()
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := a.unsavedAccounts(); n > 0 {
		return fmt.Errorf("renewed tokens of %d accounts could not be saved: their users must log in again", n)
	}
	return nil
}

// StopWatching ends the watching of the vault's accounts, which otherwise goes on for as long as the storage is open. It is to be called when nothing uses the
// Accounts any more, also where Close is not.
func (a *Accounts) StopWatching() { a.unwatch() }

// provider returns the account's provider, nil where it is not configured any more, or another one has its name now: that must not be sent
// the account's tokens.
func (a *Accounts) provider(acc *tokenstore.Account) *Provider {
	p := a.providers[acc.Provider]
	if p == nil || acc.Identity != "" && acc.Identity != p.Identity() {
		return nil
	}
	return p
}

// maxGates is how many gates there are beside those of providers whose authorization server is always the same.
const maxGates = 64

// gate is the one of the account's authorization server.
func (a *Accounts) gate(acc *tokenstore.Account) *gate {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := acc.Provider + " " + acc.Binding.Issuer
	g := a.gates[key]
	if g == nil {
		if len(a.gates) >= maxGates+len(a.providers) {
			clear(a.gates) // those in use go on being used by whoever has them
		}
		g = newGate()
		g.provider = acc.Provider
		a.gates[key] = g
	}
	return g
}

// refreshable reports whether the account's token can be renewed.
func (a *Accounts) refreshable(acc *tokenstore.Account) bool {
	p := a.providers[acc.Provider]
	return acc.RefreshToken != "" && (p == nil || !p.config.NoRefresh)
}

// Ends is when the account's token ends, where there is none to renew it with; zero where there is, and where the provider does not say.
func (a *Accounts) Ends(acc *tokenstore.Account) time.Time {
	if a.refreshable(acc) {
		return time.Time{}
	}
	return acc.Expires
}

// account returns the account as it is, and whether it is one that is kept in memory because it could not be saved.
func (a *Accounts) account(ctx context.Context, id string) (acc *tokenstore.Account, kept bool, err error) {
	if acc, kept = a.unsavedAccount(id); kept {
		return acc, true, nil
	}
	acc, err = a.load(ctx, id)
	if err != nil {
		return nil, false, a.vaultError(id, err)
	}
	return acc, false, nil
}

func (a *Accounts) unsavedAccount(id string) (acc *tokenstore.Account, kept bool) {
	v, kept := a.unsaved.Load(id)
	if kept {
		acc = v.(*tokenstore.Account)
	}
	return acc, kept
}

// unsavedAccounts is how many accounts' renewed tokens are not saved yet.
func (a *Accounts) unsavedAccounts() (n int) {
	for range a.unsaved.Range {
		n++
	}
	return n
}

// vaultError says in this package's words why an account cannot be read or written.
func (a *Accounts) vaultError(id string, err error) error {
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return fmt.Errorf("account is gone: %w", ErrNeedsReauth)
	case errors.Is(err, tokenstore.ErrTampered):
		a.log.Error("account cannot be opened", zap.String("account", id), zap.Error(err))
		return fmt.Errorf("account cannot be opened: %w", ErrNeedsReauth)
	default:
		return unavailable(time.Second, fmt.Errorf("account: %w", err))
	}
}

// due reports whether the account's token should be refreshed although it may still be valid.
func (a *Accounts) due(acc *tokenstore.Account, now time.Time) bool {
	if acc.Expires.IsZero() || !a.refreshable(acc) {
		return false
	}
	before := min(a.before, acc.Expires.Sub(acc.Obtained)/2)
	if now.Before(acc.Expires.Add(-before)) { // as for most requests, which need not know by how much it is put off
		return false
	}
	return !now.Before(acc.Expires.Add(-before + spread(acc.ID, before*19/100) + spread(a.turn+acc.ID, before/100)))
}

// spread is by how much a refresh is put off, up to most. Accounts that were filled together need not be refreshed together. And of the nodes that see an
// account become due, each has its turn at another moment, so that one has refreshed it before the next thinks of it.
func spread(key string, most time.Duration) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key)) // never fails
	sum := h.Sum64()
	sum ^= sum >> 32 // keys that differ at their ends only differ little in the bits that count
	sum *= 0x9e3779b97f4a7c15
	return time.Duration(float64(most) * float64(sum>>32) / (1 << 32))
}

// pause is how long neither the account nor its provider should be tried.
func (a *Accounts) pause(acc *tokenstore.Account, now time.Time) time.Duration {
	var wait time.Duration
	wait = a.gate(acc).wait(now)
	a.mu.Lock()
	defer a.mu.Unlock()
	if b := a.pauses[acc.ID]; b != nil {
		wait = max(wait, b.wait(now))
	}
	return wait
}

// failed makes the account pause after a failure, at least as long as given.
func (a *Accounts) failed(id string, now time.Time, atLeast time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pauses) >= maxPauses {
		for other, b := range a.pauses {
			if b.wait(now) == 0 {
				delete(a.pauses, other)
			}
		}
	}
	b := a.pauses[id]
	if b == nil {
		b = &backoff{limit: pauseLimit}
		a.pauses[id] = b
	}
	b.failed(now, atLeast)
}

// succeeded ends the account's pauses.
func (a *Accounts) succeeded(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pauses, id)
	delete(a.inconclusive, id)
}

// over reports whether the account has ended.
func over(acc *tokenstore.Account) bool {
	return acc.State == tokenstore.StateNeedsReauth || acc.State == tokenstore.StateRevoked
}

func needsReauth(acc *tokenstore.Account) error {
	return &ReauthError{Reason: acc.Reason}
}

// valid reports whether the account's token may be used. One whose end is not known is used until the upstream refuses it.
func valid(acc *tokenstore.Account, now time.Time) bool {
	return acc.AccessToken != "" && (acc.Expires.IsZero() || now.Before(acc.Expires))
}

// forcedLately reports whether an upstream's refusal had the account refreshed a moment ago. One that failed does not count: the token that is
// refused is not a renewed one.
func forcedLately(acc *tokenstore.Account, now time.Time) bool {
	since := now.Sub(acc.Forced)
	return since >= 0 && since < forcedEvery && !acc.Obtained.Before(acc.Forced)
}

// end wipes an account's tokens.
func end(acc *tokenstore.Account, state tokenstore.State, reason string) {
	acc.State, acc.Reason, acc.Lease = state, reason, tokenstore.Lease{}
	acc.AccessToken, acc.RefreshToken, acc.IDToken = "", "", ""
}

// reasonNoRefresh is why an upstream's refusal of a token is the end.
const reasonNoRefresh = "the MCP server refused the token, and the provider gave none to renew it with"

var errNotSaved = errors.New("the renewed token is not saved yet")

func notConfigured(provider string) error {
	return &Error{Class: Misconfigured, Err: fmt.Errorf("provider %q is not configured any more: configure it, or revoke the accounts that it gave", provider)}
}
