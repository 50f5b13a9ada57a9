package authserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// maxSorted is among how many grants a page can be in another order than that of their age.
	maxSorted = 1000

	// maxSearchWords bounds the words of a search.
	maxSearchWords = 8

	// maxReason is how long the reason for which somebody ends a grant may be, in bytes.
	maxReason = 200
)

// GrantFilter selects grants: those that are as all of its fields say. Those that are empty say nothing.
type GrantFilter struct {
	// UserID, ClientID, Proxy and AccountID are ids, and Provider is the name of the account's provider.
	UserID, ClientID, Proxy, Provider, AccountID string

	// Health is how the grants fare.
	Health tokenstore.Health

	// Text finds whole words of the user's name, e-mail address, login name and of the client's name, small and large letters alike. Of an address the whole, what
	// stands before the @, and the domain are words too. All words must be found, eight at most.
	Text string

	// Sort is user, client, proxy, provider, used, expires or health, with a - in front the other way round. It works where 1,000 grants at most are selected.
	// Default: the newest first.
	Sort string

	// After is Next of the page before. Limit is the size of a page, 1 to 1000; 100 when zero.
	After string
	Limit int
}

// GrantPage is a page of grants.
type GrantPage struct {
	Grants []*GrantInfo `json:"grants"`

	// Next is After of the next page; empty on the last one.
	Next string `json:"next,omitempty"`
}

// GrantInfo is what operators see of a grant.
type GrantInfo struct {
	ID string `json:"id"`

	// Health is how the grant fares now, and Reason why in words. One that cannot be read is broken, and nothing else is said of it.
	Health tokenstore.Health `json:"health"`
	Reason string            `json:"reason,omitempty"`

	// User is who allowed it: the client itself where it acts for itself.
	User GrantUser `json:"user,omitzero"`

	// ClientID is the client's id, and Client its name as the user was shown it.
	ClientID string `json:"client_id,omitempty"`
	Client   string `json:"client,omitempty"`

	// Proxy is the proxy's id, and Resource its resource identifier. A session token is good for every proxy of its provider, and has none.
	Proxy    string `json:"proxy,omitempty"`
	Resource string `json:"resource,omitempty"`

	// Provider is the name of the provider of the upstream account.
	Provider string   `json:"provider,omitempty"`
	Scopes   []string `json:"scopes,omitempty"`

	Created time.Time `json:"created,omitzero"`

	// Used is the last use, to within an hour. Expires is when the grant ends unless it is renewed, and Ends when it ends in any case.
	Used    time.Time `json:"used,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
	Ends    time.Time `json:"ends,omitzero"`

	// UpstreamEnds is when the upstream token ends, where there is none to renew it with.
	UpstreamEnds time.Time `json:"upstream_ends,omitzero"`

	// Account is the upstream account, where one grant alone is asked for.
	Account *AccountInfo `json:"account,omitempty"`
}

// GrantUser is what operators see of a user. Label is for people to read, and the e-mail address is one that the provider vouches for.
type GrantUser struct {
	ID       string `json:"id"`
	Label    string `json:"label"`
	Email    string `json:"email,omitempty"`
	Login    string `json:"login,omitempty"`
	Name     string `json:"name,omitempty"`
	Provider string `json:"provider,omitempty"` // where they log in
}

// AccountInfo is what operators see of an upstream account, which is all but its tokens.
type AccountInfo struct {
	ID       string           `json:"id"`
	State    tokenstore.State `json:"state"`
	Reason   string           `json:"reason,omitempty"` // why it is not active any more
	Provider string           `json:"provider"`
	Owner    string           `json:"owner,omitempty"` // whose it is at the provider, where users log in elsewhere
	Scopes   []string         `json:"scopes,omitempty"`
	Obtained time.Time        `json:"obtained,omitzero"` // when the provider issued the token
	Expires  time.Time        `json:"expires,omitzero"`  // when the token ends; absent where the provider does not say
}

// Grants lists a page of grants. What is wrong with the filter is an *Error; other errors are what the vault says.
func (s *Server) Grants(ctx context.Context, f GrantFilter) (*GrantPage, error) {
	q, err := grantQuery(f)
	if err != nil {
		return nil, err
	}
	if f.Sort != "" {
		return s.sortedGrants(ctx, f, q)
	}
	grants, more, err := s.findGrants(ctx, q)
	if err != nil {
		return nil, err
	}
	page := &GrantPage{Grants: grants}
	if more {
		page.Next = grants[len(grants)-1].ID
	}
	return page, nil
}

func grantQuery(f GrantFilter) (q tokenstore.GrantQuery, err error) {
	bad := func(format string, args ...any) error { return refuse("invalid_request", fmt.Sprintf(format, args...)) }
	words := tokenstore.Words(f.Text)
	switch {
	case f.Limit < 0 || f.Limit > maxSorted:
		return q, bad("limit: %d is not between 1 and %d", f.Limit, maxSorted)
	case f.Health != "" && !slices.Contains(tokenstore.Healths(), f.Health):
		return q, bad("health: %.40q is none of %s", f.Health, joined(tokenstore.Healths()))
	case f.Text != "" && len(words) == 0:
		return q, bad("text: %.40q has no word to look for", f.Text)
	case len(words) > maxSearchWords:
		return q, bad("text: it has %d words, more than %d", len(words), maxSearchWords)
	}
	return tokenstore.GrantQuery{UserID: f.UserID, ClientID: f.ClientID, AccountID: f.AccountID, Proxy: f.Proxy, Provider: f.Provider, Health: f.Health,
		Text: f.Text, After: f.After, Limit: cmp.Or(f.Limit, 100)}, nil
}

func joined[T ~string](values []T) string {
	list := make([]string, 0, len(values))
	for _, v := range values {
		list = append(list, string(v))
	}
	return strings.Join(list, ", ")
}

func (s *Server) findGrants(ctx context.Context, q tokenstore.GrantQuery) (grants []*GrantInfo, more bool, err error) {
	found, more, err := s.vault.FindGrants(ctx, q)
	if err != nil {
		return nil, false, fmt.Errorf("list grants: %w", err)
	}
	grants = make([]*GrantInfo, 0, len(found))
	for _, g := range found {
		if g.Err != nil {
			s.log.Error("grant does not open", zap.String("grant", g.ID), zap.Error(g.Err))
			grants = append(grants, unreadable(g.ID))
			continue
		}
		grants = append(grants, s.describeGrant(g.Grant))
	}
	return grants, more, nil
}

// unreadable is a grant that does not open.
func unreadable(id string) *GrantInfo {
	return &GrantInfo{ID: id, Health: tokenstore.HealthBroken,
		Reason: "its record cannot be read: it was changed outside of the gateway, or the storage is damaged; nobody can use it"}
}

// describeGrant is what operators see of a grant.
func (s *Server) describeGrant(g *tokenstore.Grant) *GrantInfo {
	health, reason := s.health(g)
	return &GrantInfo{
		ID: g.ID, Health: health, Reason: reason,
		User: GrantUser{ID: g.UserID, Label: g.User.Label(), Email: g.User.VerifiedEmail(), Login: g.User.Login, Name: g.User.Name, Provider: g.User.Provider},

		ClientID: g.ClientID, Client: g.Client, Proxy: g.Proxy, Resource: g.Resource, Provider: g.Provider, Scopes: g.Scopes,
		Created: g.Created, Used: g.Used, Expires: g.Expires, Ends: g.Ends, UpstreamEnds: g.UpstreamEnds,
	}
}

// grantOrders compare grants by what they can be sorted by.
var grantOrders = map[string]func(a, b *GrantInfo) int{
	"user": func(a, b *GrantInfo) int {
		return cmp.Or(strings.Compare(strings.ToLower(a.User.Label), strings.ToLower(b.User.Label)), strings.Compare(a.User.ID, b.User.ID))
	},
	"client": func(a, b *GrantInfo) int {
		return cmp.Or(strings.Compare(strings.ToLower(a.Client), strings.ToLower(b.Client)), strings.Compare(a.ClientID, b.ClientID))
	},
	"proxy":    func(a, b *GrantInfo) int { return strings.Compare(a.Proxy, b.Proxy) },
	"provider": func(a, b *GrantInfo) int { return strings.Compare(a.Provider, b.Provider) },
	"used":     func(a, b *GrantInfo) int { return a.Used.Compare(b.Used) },
	"expires":  func(a, b *GrantInfo) int { return a.Expires.Compare(b.Expires) },
	"health":   func(a, b *GrantInfo) int { return strings.Compare(string(a.Health), string(b.Health)) },
}

// sortedGrants lists a page of grants in another order than that of their age. All that are selected are read for it.
func (s *Server) sortedGrants(ctx context.Context, f GrantFilter, q tokenstore.GrantQuery) (*GrantPage, error) {
	by, descending := strings.CutPrefix(f.Sort, "-")
	order := grantOrders[by]
	if order == nil {
		return nil, refuse("invalid_request", fmt.Sprintf("sort: %.40q is none of client, expires, health, provider, proxy, used, user, nor one of these with - in front", f.Sort))
	}
	size := q.Limit
	q.After, q.Limit = "", maxSorted
	grants, more, err := s.findGrants(ctx, q)
	switch {
	case err != nil:
		return nil, err
	case more:
		return nil, refuse("invalid_request", fmt.Sprintf("sort: more than %d grants are selected, too many to sort; narrow the filter", maxSorted))
	}
	slices.SortStableFunc(grants, func(a, b *GrantInfo) int {
		if descending {
			a, b = b, a
		}
		return order(a, b)
	})
	if f.After != "" {
		last := slices.IndexFunc(grants, func(g *GrantInfo) bool { return g.ID == f.After })
		if last < 0 {
			return nil, refuse("invalid_request", "after: the last grant of the page before is not among those selected any more; start at the first page")
		}
		grants = grants[last+1:]
	}
	page := &GrantPage{Grants: grants}
	if len(grants) > size {
		page.Grants = grants[:size]
		page.Next = grants[size-1].ID
	}
	return page, nil
}

// GrantInfo describes one grant, with its account. An id of no grant is an *Error with status 404; other errors are what the vault says.
func (s *Server) GrantInfo(ctx context.Context, id string) (*GrantInfo, error) {
	g, err := s.vault.Grant(ctx, id)
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return nil, errNoGrant()
	case errors.Is(err, tokenstore.ErrTampered):
		s.log.Error("grant does not open", zap.String("grant", id), zap.Error(err))
		return unreadable(id), nil
	case err != nil:
		return nil, fmt.Errorf("grant: %w", err)
	}
	info := s.describeGrant(g)
	if g.AccountID == "" {
		return info, nil
	}
	account, err := s.vault.Account(ctx, g.AccountID)
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
	case errors.Is(err, tokenstore.ErrTampered):
		s.log.Error("account does not open", zap.String("account", g.AccountID), zap.Error(err))
	case err != nil:
		return nil, fmt.Errorf("account: %w", err)
	default:
		info.Account = &AccountInfo{ID: account.ID, State: account.State, Reason: account.Reason, Provider: account.Provider, Owner: account.Owner,
			Scopes: account.Scopes, Obtained: account.Obtained, Expires: account.Expires}
	}
	return info, nil
}

func errNoGrant() *Error {
	return &Error{Status: http.StatusNotFound, Code: "not_found", Description: "there is no grant of this id"}
}

// EndGrant ends a grant: the next request with one of its tokens is refused, responses that are open end within a second, and the provider is told. The reason is
// for people, up to 200 bytes. One that was ended before stays as it is. An id of no grant is an *Error with status 404; other errors are what the vault says.
func (s *Server) EndGrant(ctx context.Context, id, reason string) (*GrantInfo, error) {
	reason = strings.ToValidUTF8(strings.TrimSpace(reason), "")
	if reason == "" {
		reason = "ended by an operator"
	}
	if len(reason) > maxReason {
		return nil, refuse("invalid_request", fmt.Sprintf("reason: it has more than %d bytes", maxReason))
	}
	err := s.endGrant(ctx, id, reason)
	if errors.Is(err, tokenstore.ErrTampered) {
		return nil, (&Error{Status: http.StatusConflict, Code: "unreadable",
			Description: "the grant's record cannot be read, so nobody can use it, nor end it; it is deleted when its time is over"}).because(err)
	}
	if err != nil {
		return nil, err
	}
	return s.GrantInfo(ctx, id)
}
