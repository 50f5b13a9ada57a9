package upstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// registerMore is how much longer than a request may take a registration is one process's.
	registerMore = 5 * time.Second

	// registerPoll is how often one is looked at that another process makes.
	registerPoll = 200 * time.Millisecond
)

// replace registers anew, unless another process has done so.
func (r *registrations) replace(ctx context.Context, m *metadata, forgotten string) (oauthClient, error) {
	vault, err := r.store()
	if err != nil {
		return oauthClient{}, err
	}
	record, err := vault.Registration(ctx, r.id(vault, m))
	if err != nil || len(record.Clients) > 0 && record.Clients[0].ID != forgotten {
		return r.get(ctx, m, "")
	}
	return r.register(ctx, m, record, forgotten)
}

// register registers the gateway (RFC 7591), and puts the new client in front of those in record. Of the processes that want to, one does; the others wait for
// it and use its client. forgotten is the client in whose place it is, if there is one.
func (r *registrations) register(ctx context.Context, m *metadata, record *tokenstore.Registration, forgotten string) (oauthClient, error) {
	again := func() (oauthClient, error) {
		if forgotten != "" {
			return r.replace(ctx, m, forgotten)
		}
		return r.get(ctx, m, "")
	}
	vault, err := r.store()
	if err != nil {
		return oauthClient{}, err
	}
	if record == nil {
		record = &tokenstore.Registration{Meta: tokenstore.Meta{ID: r.id(vault, m)}, Issuer: m.Issuer}
	}
	if vault.Now().Before(record.Registering.Until) {
		if !sleep(ctx, registerPoll) {
			return oauthClient{}, &Error{Class: Unreachable, Local: true, Err: errors.New("registration: another process is registering the gateway")}
		}
		return again()
	}
	owner := rand.Text()
	record.Registering = tokenstore.Lease{Owner: owner, Until: vault.Now().Add(r.provider.timeout + registerMore)}
	keepUnused(record, vault.Now())
	switch err := vault.Commit(ctx, tokenstore.Save(record)); {
	case errors.Is(err, tokenstore.ErrConflict): // another process was faster
		return again()
	case err != nil:
		return oauthClient{}, &Error{Class: Unreachable, Local: true, Err: fmt.Errorf("registration: %w", err)}
	}
	c, err := r.provider.registerAt(ctx, m)
	if err != nil {
		// Without this write others wait until the lease runs out.
		_ = r.end(context.WithoutCancel(ctx), vault, record, owner, func(*tokenstore.Registration) {})
		return oauthClient{}, in("registration", err)
	}
	err = r.end(context.WithoutCancel(ctx), vault, record, owner, func(record *tokenstore.Registration) { putInFront(record, c) })
	switch {
	case errors.Is(err, errTakenOver):
		return again()
	case err != nil:
		return oauthClient{}, &Error{Class: Unreachable, Local: true, Err: fmt.Errorf("registration: %w", err)}
	}
	r.prove(c.ID, false)
	return oauthClient{id: c.ID, secret: c.Secret, method: c.AuthMethod, registered: true}, nil
}

// end writes what came of a registration, as long as it is this process's.
func (r *registrations) end(ctx context.Context, vault *tokenstore.Vault, record *tokenstore.Registration, owner string, change func(*tokenstore.Registration)) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		record.Registering = tokenstore.Lease{}
		change(record)
		keepUnused(record, vault.Now())
		err := vault.Commit(ctx, tokenstore.Save(record))
		if !errors.Is(err, tokenstore.ErrConflict) {
			return err
		}
		if record, err = vault.Registration(ctx, record.ID); err != nil {
			return err
		}
		if record.Registering.Owner != owner {
			return errTakenOver
		}
	}
}

// keepUnused keeps a registration for as long as one of which no token has come yet.
func keepUnused(record *tokenstore.Registration, now time.Time) {
	if end := now.Add(unusedFor); record.DeleteAfter.Before(end) {
		record.DeleteAfter = end
	}
}

// putInFront makes a client the one for new logins, and drops what are too many: those that are refused first, then the oldest.
func putInFront(record *tokenstore.Registration, c tokenstore.RegisteredClient) {
	record.Clients = slices.Insert(record.Clients, 0, c)
	for len(record.Clients) > maxClients {
		i := slices.IndexFunc(record.Clients, func(c tokenstore.RegisteredClient) bool { return !c.Refused.IsZero() })
		if i < 0 {
			i = len(record.Clients) - 1
		}
		record.Clients = slices.Delete(record.Clients, i, i+1)
	}
}
