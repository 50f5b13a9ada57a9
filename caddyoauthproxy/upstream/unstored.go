package upstream

import (
	"container/list"
	"context"
	"errors"
	"hash/maphash"
	"sync"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Where the operator does not want tokens to be stored, they live in the memory of this process alone. The account itself is in the vault as any
// other, with its states and leases, but without tokens: whoever finds it so, after a restart or in another process, has the user log in again.

// OneProcess reports whether the tokens of the provider's users are in the memory of the process that got them, so that no other can serve these users: one that
// shares the vault finds an account without tokens, and ends it as if that process were gone. Such a provider must not be configured with a vault that several
// nodes share.
func (p *Provider) OneProcess() bool { return p.config.Unstored }

// maxHeld bounds how many accounts' tokens are in memory; beyond it those are forgotten that were not used for longest.
const maxHeld = 100_000

// held are the tokens that are in memory. They belong to the process, not to one configuration: a reload must log nobody out.
var held = newMemory()

type memory struct {
	// rows keep the row of an account and the tokens beside it together: held while both are changed, and while both are read. Each is for
	// some of the accounts, so that a slow write does not hold up all.
	rows [256]sync.RWMutex
	seed maphash.Seed

	mu      sync.Mutex
	entries map[string]*list.Element // by account
	order   *list.List               // of heldTokens, the latest used in front
}

type heldTokens struct {
	id string
	Tokens
}

func newMemory() *memory {
	return &memory{entries: make(map[string]*list.Element), order: list.New(), seed: maphash.MakeSeed()}
}

func (m *memory) row(id string) *sync.RWMutex {
	return &m.rows[maphash.String(m.seed, id)%uint64(len(m.rows))]
}

func (m *memory) put(id string, t Tokens) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(id)
	m.entries[id] = m.order.PushFront(heldTokens{id, t})
	if m.order.Len() > maxHeld {
		m.remove(m.order.Back().Value.(heldTokens).id)
	}
}

func (m *memory) get(id string) Tokens {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[id]
	if e == nil {
		return Tokens{}
	}
	m.order.MoveToFront(e)
	return e.Value.(heldTokens).Tokens
}

func (m *memory) drop(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(id)
}

func (m *memory) remove(id string) {
	if e := m.entries[id]; e != nil {
		m.order.Remove(e)
		delete(m.entries, id)
	}
}

// Withhold takes the tokens out of a new account that is about to be stored, where they are to be in memory alone.
func (a *Accounts) Withhold(acc *tokenstore.Account) {
	if !a.withholds(acc) {
		return
	}
	acc.Unstored = true
	held.put(acc.ID, takeTokens(acc))
}

// withholds reports whether the tokens of the account's provider are to be in memory alone.
func (a *Accounts) withholds(acc *tokenstore.Account) bool {
	p := a.providers[acc.Provider]
	return p != nil && p.config.Unstored
}

// takeTokens takes the tokens out of an account, or out of its revocation: an ended account has no others.
func takeTokens(acc *tokenstore.Account) Tokens {
	if acc.Revocation != nil {
		r := *acc.Revocation
		t := Tokens{AccessToken: r.AccessToken, RefreshToken: r.RefreshToken}
		r.AccessToken, r.RefreshToken = "", ""
		acc.Revocation = &r
		return t
	}
	t := Tokens{AccessToken: acc.AccessToken, RefreshToken: acc.RefreshToken, IDToken: acc.IDToken}
	acc.AccessToken, acc.RefreshToken, acc.IDToken = "", "", ""
	return t
}

// load reads an account from the vault, with its tokens wherever they are.
func (a *Accounts) load(ctx context.Context, id string) (*tokenstore.Account, error) {
	acc, err := a.vault.Account(ctx, id)
	var t Tokens
	if err == nil && acc.Unstored {
		row := held.row(id)
		row.RLock()
		if acc, err = a.vault.Account(ctx, id); err == nil {
			t = held.get(id)
		}
		row.RUnlock()
	}
	if errors.Is(err, tokenstore.ErrNotFound) {
		held.drop(id)
	}
	if err != nil || over(acc) {
		return acc, err
	}
	if !acc.Unstored && a.withholds(acc) {
		a.withdraw(ctx, acc)
	} else if acc.Unstored {
		acc.AccessToken, acc.RefreshToken, acc.IDToken = t.AccessToken, t.RefreshToken, t.IDToken
	}
	return acc, nil
}

// giveBack puts the tokens that are still to be revoked back into an account that was read from the vault. It reports false where they are
// in the memory of another process, or of none any more.
func giveBack(acc *tokenstore.Account) bool {
	if !acc.Unstored {
		return true
	}
	t := held.get(acc.ID)
	acc.Revocation.AccessToken, acc.Revocation.RefreshToken = t.AccessToken, t.RefreshToken
	return t.AccessToken != "" || t.RefreshToken != ""
}

// withdraw takes the tokens of an account that is older than the operator's wish out of the vault. When that fails, it is tried with the next use.
func (a *Accounts) withdraw(ctx context.Context, acc *tokenstore.Account) {
	moved := *acc
	moved.Unstored = true
	if a.commit(ctx, &moved) == nil {
		*acc = moved
	}
}

// commit stores an account and what is written with it, but not the tokens of one that is not to have them stored.
func (a *Accounts) commit(ctx context.Context, acc *tokenstore.Account, with ...tokenstore.Write) error {
	if !acc.Unstored {
		return a.vault.Commit(ctx, append([]tokenstore.Write{tokenstore.Save(acc)}, with...)...)
	}
	bare := *acc
	t := takeTokens(&bare)
	row := held.row(acc.ID)
	row.Lock()
	defer row.Unlock()
	if err := a.vault.Commit(ctx, append([]tokenstore.Write{tokenstore.Save(&bare)}, with...)...); err != nil {
		return err
	}
	acc.Meta = bare.Meta
	if over(acc) && acc.Revocation == nil {
		held.drop(acc.ID)
	} else {
		held.put(acc.ID, t)
	}
	return nil
}
