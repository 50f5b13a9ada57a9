package authserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// maxConnections is how many grants of one user are shown to them. All are cut with everything.
const maxConnections = 1000

// Connections is what a user has allowed and connected, as they see it themselves.
type Connections struct {
	// Grants are the living ones, the newest first, and Accounts those that they use. More says that there are others.
	Grants   []*Connection
	Accounts []*ConnectedAccount
	More     bool

	// Unconnected are proxies that the user may use, and has no grant for.
	Unconnected []*Proxy

	// SignIns is in how many browsers the user is signed in.
	SignIns int
}

// Connection is what a user allowed a client to do.
type Connection struct {
	*GrantInfo

	// ProxyName is the MCP server's name, empty for a session token, which is good for all of its provider, and ScopeTexts are the scopes in words.
	ProxyName  string
	ScopeTexts []string

	// Own says that no client is behind it, but the user, or a script of theirs. KnownToOperator says that the operator registered the client, and
	// VerifiedHost is the host that vouches for it. With none of the three it registered itself.
	Own, KnownToOperator bool
	VerifiedHost         string

	// AccountID names the account that it uses.
	AccountID string
}

// ConnectedAccount is an account of the user's at a provider. Several grants may use it, each with tokens of its own.
type ConnectedAccount struct {
	// ID names it in CutAccount.
	ID string

	Provider string

	// Owner is whose it is at the provider, in words, where users log in elsewhere.
	Owner string

	// Since is when it was first connected, as far as that grant still lives.
	Since time.Time

	// Broken says why it must be connected again; empty while it need not.
	Broken string

	Grants []*Connection
}

// Connections lists what a user has allowed and connected. Errors are those of the vault.
func (s *Server) Connections(ctx context.Context, signIn *SignIn) (*Connections, error) {
	out, err := s.userGrants(ctx, signIn.UserID)
	if err != nil {
		return nil, err
	}
	if err := s.addAccounts(ctx, out); err != nil {
		return nil, err
	}
	for _, p := range s.order {
		connected := slices.ContainsFunc(out.Grants, func(c *Connection) bool { return c.Proxy == p.ID })
		if login := p.loginProvider(); !connected && login.Name() == signIn.User.Provider && !login.Anonymous() && p.Allow.Permits(signIn.User) {
			out.Unconnected = append(out.Unconnected, p)
		}
	}
	signIns, err := s.vault.SignIns(ctx, signIn.UserID)
	if err != nil && !errors.Is(err, tokenstore.ErrTampered) {
		return nil, fmt.Errorf("sign-ins: %w", err)
	}
	for _, record := range signIns {
		if s.vault.Now().Before(s.judged(record).Expires) {
			out.SignIns++
		}
	}
	return out, nil
}

// userGrants lists the grants of a user that somebody could still act with.
func (s *Server) userGrants(ctx context.Context, userID string) (*Connections, error) {
	out := new(Connections)
	q := tokenstore.GrantQuery{UserID: userID, Limit: maxConnections}
	for {
		found, more, err := s.vault.FindGrants(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("list grants: %w", err)
		}
		for _, f := range found {
			q.After = f.ID
			if f.Err != nil {
				s.log.Error("grant does not open", zap.String("grant", f.ID), zap.Error(f.Err))
				continue // and nobody can act with it
			}
			info := s.describeGrant(f.Grant)
			if info.User.ID != userID || s.over(f.Grant) || info.Health == tokenstore.HealthRevoked || info.Health == tokenstore.HealthExpired {
				continue
			}
			if len(out.Grants) == maxConnections {
				out.More = true
				return out, nil
			}
			out.Grants = append(out.Grants, s.connection(info, f.Grant.AccountID))
		}
		if !more {
			return out, nil
		}
	}
}

// connection is a grant as its user sees it.
func (s *Server) connection(info *GrantInfo, accountID string) *Connection {
	c := &Connection{GrantInfo: info, AccountID: accountID, Own: info.ClientID == sessionClient, KnownToOperator: s.configured[info.ClientID] != nil}
	if u, err := url.Parse(info.ClientID); err == nil && u.Scheme == "https" {
		c.VerifiedHost = u.Host
	}
	p := s.proxies[info.Proxy]
	if c.ProxyName = info.Proxy; p != nil {
		c.ProxyName = p.Name
	}
	for _, scope := range info.Scopes {
		text := scope
		if p != nil {
			text = cmp.Or(p.ScopeTexts[scope], scope)
		}
		c.ScopeTexts = append(c.ScopeTexts, text)
	}
	return c
}

// addAccounts puts the grants together that use one account.
func (s *Server) addAccounts(ctx context.Context, out *Connections) error {
	accounts := make(map[string]*ConnectedAccount)
	for _, c := range out.Grants {
		if c.AccountID == "" {
			continue
		}
		record, err := s.vault.Account(ctx, c.AccountID)
		if errors.Is(err, tokenstore.ErrNotFound) || errors.Is(err, tokenstore.ErrTampered) {
			continue // the grant says that it is broken
		}
		if err != nil {
			return fmt.Errorf("account: %w", err)
		}
		id := accountKey(record)
		a := accounts[id]
		if a == nil {
			a = &ConnectedAccount{ID: id, Provider: record.Provider, Owner: record.Owner, Since: c.Created}
			accounts[id] = a
			out.Accounts = append(out.Accounts, a)
		}
		if a.Grants = append(a.Grants, c); c.Created.Before(a.Since) {
			a.Since = c.Created
		}
		if c.Health == tokenstore.HealthBroken && a.Broken == "" {
			a.Broken = c.Reason
		}
	}
	return nil
}

// accountKey names what is one account to its user: all that belongs to one owner at one provider.
func accountKey(a *tokenstore.Account) string {
	return a.Provider + "." + cmp.Or(a.OwnerID, a.ID)
}

// CutGrant ends a grant of the user's own, and forgets that they had its client's consent remembered. Another's, and one that is not there, are the same
// *Error with status 404.
func (s *Server) CutGrant(ctx context.Context, signIn *SignIn, id string) (*GrantInfo, error) {
	info, err := s.GrantInfo(ctx, id)
	if err != nil {
		return nil, err
	}
	if info.User.ID == "" || info.User.ID != signIn.UserID {
		return nil, errNoGrant()
	}
	if err := s.forgetConsents(ctx, signIn.UserID, info.ClientID); err != nil {
		return nil, err
	}
	return s.EndGrant(asUser(ctx, signIn), id, reasonUser)
}

// CutAccount ends every grant that uses an account of the user's own, and so what the gateway has of that account. It returns how many that were. One that
// is not the user's is an *Error with status 404.
func (s *Server) CutAccount(ctx context.Context, signIn *SignIn, id string) (ended int, err error) {
	account, err := s.ConnectedAccount(ctx, signIn, id)
	if err != nil {
		return 0, err
	}
	for _, c := range account.Grants {
		switch _, err := s.CutGrant(ctx, signIn, c.ID); {
		case err == nil:
			ended++
		case asError(err).Status != http.StatusNotFound: // which has just gone by itself
			return ended, err
		}
	}
	return ended, nil
}

// ConnectedAccount finds an account of the user's own. One that is not theirs is an *Error with status 404.
func (s *Server) ConnectedAccount(ctx context.Context, signIn *SignIn, id string) (*ConnectedAccount, error) {
	all, err := s.userGrants(ctx, signIn.UserID)
	if err != nil {
		return nil, err
	}
	if err := s.addAccounts(ctx, all); err != nil {
		return nil, err
	}
	for _, a := range all.Accounts {
		if a.ID == id {
			return a, nil
		}
	}
	return nil, &Error{Status: http.StatusNotFound, Code: "not_found", Description: "no account of this name is connected"}
}

// Connection finds a living grant of the user's own. Another's, and one that is not there or has ended, are the same *Error with status 404.
func (s *Server) Connection(ctx context.Context, signIn *SignIn, id string) (*Connection, error) {
	g, err := s.vault.Grant(ctx, id)
	switch {
	case errors.Is(err, tokenstore.ErrNotFound), errors.Is(err, tokenstore.ErrTampered):
		return nil, errNoGrant()
	case err != nil:
		return nil, fmt.Errorf("grant: %w", err)
	case g.UserID == "" || g.UserID != signIn.UserID || s.over(g):
		return nil, errNoGrant()
	}
	return s.connection(s.describeGrant(g), g.AccountID), nil
}

// CutAll ends everything that the user has allowed and connected, and signs them out in all browsers. A sign-in is good for one such order: they stay in
// force for hours, and every request is judged by all of them. One that is over is ErrNotSignedIn.
func (s *Server) CutAll(ctx context.Context, signIn *SignIn) error {
	work := asUser(context.WithoutCancel(ctx), signIn)
	_, err, _ := s.cuts.Do(signIn.UserID, func() (any, error) {
		switch _, err := s.vault.SignIn(work, signIn.ID); {
		case errors.Is(err, tokenstore.ErrNotFound):
			return nil, ErrNotSignedIn
		case err != nil:
			return nil, fmt.Errorf("sign-in: %w", err)
		}
		if _, err := s.RevokeGrants(work, RevocationFilter{UserID: signIn.UserID}, "the user", reasonUser); err != nil {
			return nil, err
		}
		return s.EndSignIns(work, signIn.UserID)
	})
	return err
}

// forgetConsents deletes what a user had remembered of a client, so that it has to ask again.
func (s *Server) forgetConsents(ctx context.Context, userID, clientID string) error {
	consents, err := s.vault.Consents(ctx, userID)
	if err != nil {
		return fmt.Errorf("remembered consents: %w", err)
	}
	for _, c := range consents {
		if c.ClientID != clientID {
			continue
		}
		if err := s.vault.Commit(ctx, tokenstore.Delete(c)); err != nil && !errors.Is(err, tokenstore.ErrConflict) {
			return fmt.Errorf("forget consent: %w", err)
		}
	}
	return nil
}

// asUser says in the audit trail that the user did it.
func asUser(ctx context.Context, signIn *SignIn) context.Context {
	return tokenstore.WithActor(ctx, tokenstore.Actor{Kind: tokenstore.ActorUser, ID: signIn.UserID, Label: signIn.User.Label()})
}
