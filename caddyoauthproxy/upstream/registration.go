package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// refusedFor is how long an authorization server must call a registered client unknown, without a break, before that is believed.
	refusedFor = time.Minute

	// examineAgain is how long after an authorization server called a client unknown it is asked again.
	examineAgain = time.Second

	// provedFor is how long after a token was given a registered client is taken for known without asking.
	provedFor = time.Hour

	// unusedFor is how long a registration is kept of which no token has come, and usedFor how long one is after a token; it is
	// renewed when less than half of that is left. Strangers can have the gateway register wherever their MCP server says.
	unusedFor = 24 * time.Hour
	usedFor   = 400 * 24 * time.Hour

	// maxClients is how many registrations at one authorization server are kept.
	maxClients = 8

	// purposeRegistration makes the ids of the vault's registrations.
	purposeRegistration tokenstore.Purpose = "gateway_registration"
)

// registrations are the gateway's own registrations of one provider, kept in the vault. It is safe for concurrent use.
type registrations struct {
	provider *Provider

	mu    sync.Mutex
	vault *tokenstore.Vault
	known map[string]sighting // by client id
}

// keepIn says where registrations are kept.
func (r *registrations) keepIn(v *tokenstore.Vault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.vault = v
}

func (r *registrations) store() (*tokenstore.Vault, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.vault == nil {
		return nil, &Error{Class: Misconfigured, Err: errors.New("the vault is not open")}
	}
	return r.vault, nil
}

// sighting is when the authorization server was last seen to know a client, and whether it gave it a token then.
type sighting struct {
	at   time.Time
	used bool
}

// proved reports whether a client was seen to be known lately; with used, by a token.
func (r *registrations) proved(id string, used bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.known[id]
	return r.provider.now().Before(s.at.Add(provedFor)) && (s.used || !used)
}

func (r *registrations) prove(id string, used bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) > maxClients {
		r.known = make(map[string]sighting)
	}
	r.known[id] = sighting{r.provider.now(), used}
}

func (r *registrations) doubt(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, id)
}

// get returns the client of an id, or the one for new logins when that is empty. There it follows the order of MCP: a metadata document of the
// gateway's own where the server takes one, else a registration.
func (r *registrations) get(ctx context.Context, m *metadata, id string) (oauthClient, error) {
	address := r.provider.config.ClientMetadataURL
	if address != "" && (id == address || id == "" && m.ClientDocuments) {
		return oauthClient{id: address, method: AuthNone}, nil
	}
	vault, err := r.store()
	if err != nil {
		return oauthClient{}, err
	}
	record, err := vault.Registration(ctx, r.id(vault, m))
	switch {
	case err == nil:
	case !errors.Is(err, tokenstore.ErrNotFound):
		return oauthClient{}, &Error{Class: Unreachable, Local: true, Err: fmt.Errorf("registration: %w", err)}
	case id == "":
		return r.register(ctx, m, nil, "")
	default:
		return oauthClient{}, errForgotten()
	}
	for _, c := range record.Clients {
		expired := !c.Expires.IsZero() && !vault.Now().Before(c.Expires)
		switch {
		case id == "" && expired:
			return r.register(ctx, m, record, "")
		case id == "" || id == c.ID && !expired:
			return oauthClient{id: c.ID, secret: c.Secret, method: c.AuthMethod, registered: true}, nil
		}
	}
	if id == "" { // somebody began to register, and did not end it
		return r.register(ctx, m, record, "")
	}
	return oauthClient{}, errForgotten()
}

// pin holds the operator's own client to the authorization server where it was first used, unless the operator has named one: its secret must not
// go to whichever server the MCP server names today.
func (r *registrations) pin(ctx context.Context, m *metadata) error {
	c := &r.provider.config
	if sameIssuer(c.Issuer, m.Issuer) {
		return nil
	}
	if c.Issuer != "" {
		return &Error{Class: Misconfigured, Err: fmt.Errorf("these tokens are of %.200q, and the client of issuer %q", m.Issuer, c.Issuer)}
	}
	vault, err := r.store()
	if err != nil {
		return err
	}
	id := vault.Derive(purposeRegistration, "configured", r.provider.name, c.Server, c.ClientID)
	record, err := vault.Registration(ctx, id)
	if errors.Is(err, tokenstore.ErrNotFound) {
		record = &tokenstore.Registration{Meta: tokenstore.Meta{ID: id}, Issuer: m.Issuer}
		if err = vault.Commit(ctx, tokenstore.Save(record)); errors.Is(err, tokenstore.ErrConflict) {
			record, err = vault.Registration(ctx, id)
		}
	}
	switch {
	case err != nil:
		return &Error{Class: Unreachable, Local: true, Err: fmt.Errorf("registration: %w", err)}
	case !sameIssuer(record.Issuer, m.Issuer):
		return &Error{Class: Misconfigured, Err: fmt.Errorf("the MCP server is protected by %.200q now, and client_id %q was used at %.200q: if it is registered there, too, write issuer %.200q",
			m.Issuer, c.ClientID, record.Issuer, m.Issuer)}
	}
	return nil
}

func errForgotten() error {
	return &Error{Class: Rejected, Local: true, Err: errors.New("the authorization server has forgotten the client that the tokens were given to")}
}

func (r *registrations) id(v *tokenstore.Vault, m *metadata) string {
	return v.Derive(purposeRegistration, strings.TrimSuffix(m.Issuer, "/"), r.provider.config.RedirectURI)
}

// judged notes what the answer to a token request says of the client, and turns a refusal of the client that lasts into one of the tokens: only a
// new login helps then. A single refusal may be a slip of the server's.
func (r *registrations) judged(ctx context.Context, m *metadata, c oauthClient, answer error) error {
	unknown, known := unknownClient(answer), answer == nil || isRejected(answer)
	if !c.registered || !unknown && !known || known && r.proved(c.id, answer == nil) {
		return answer
	}
	vault, err := r.store()
	if err != nil {
		return answer
	}
	for {
		record, err := vault.Registration(ctx, r.id(vault, m))
		if err != nil {
			return answer
		}
		i := slices.IndexFunc(record.Clients, func(have tokenstore.RegisteredClient) bool { return have.ID == c.id })
		if i < 0 {
			return answer
		}
		since, now := &record.Clients[i].Refused, vault.Now()
		switch {
		case known:
			lasts := record.DeleteAfter.After(now.Add(usedFor / 2))
			if since.IsZero() && (lasts || answer != nil) {
				r.prove(c.id, answer == nil)
				return answer
			}
			*since = time.Time{}
			if answer == nil && !lasts {
				record.DeleteAfter = now.Add(usedFor)
			}
		case since.IsZero():
			r.doubt(c.id)
			*since = now
		case now.Sub(*since) >= refusedFor:
			// Others may have been told otherwise meanwhile, which is not written down each time: so it is asked.
			told, err := r.provider.askWhetherKnown(ctx, m, c)
			switch {
			case err != nil:
				return answer
			case unknownClient(told):
				return errForgotten()
			case !isRejected(told):
				return answer
			}
			r.prove(c.id, false)
			*since = time.Time{}
		default:
			return answer
		}
		err = vault.Commit(ctx, tokenstore.Save(record))
		if errors.Is(err, tokenstore.ErrConflict) {
			continue
		}
		if err == nil && !unknown {
			r.prove(c.id, answer == nil)
		}
		return answer
	}
}
