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

// The kinds of clients, by where they come from.
const (
	// ClientRegistered registered itself (RFC 7591).
	ClientRegistered = "registered"

	// ClientConfigured stands in the configuration.
	ClientConfigured = "configured"

	// ClientDocument describes itself in a client ID metadata document.
	ClientDocument = "metadata_document"
)

// ClientInfo is what operators see of a client. What it says of itself is a stranger's text.
type ClientInfo struct {
	ID              string   `json:"client_id"`
	Kind            string   `json:"kind"` // registered, configured or metadata_document
	Name            string   `json:"client_name,omitempty"`
	URI             string   `json:"client_uri,omitempty"`
	ApplicationType string   `json:"application_type,omitempty"`
	RedirectURIs    []string `json:"redirect_uris"`
	GrantTypes      []string `json:"grant_types"`
	AuthMethod      string   `json:"token_endpoint_auth_method"`
	JWKSURI         string   `json:"jwks_uri,omitempty"`

	// Proxies are those that the client may use, or registered for; empty for all.
	Proxies []string `json:"proxies,omitempty"`

	// Created and Used are there for clients that registered themselves: when they did, and when they last got a token, to within a day.
	Created time.Time `json:"created,omitzero"`
	Used    time.Time `json:"used,omitzero"`

	// Expires is when the registration is deleted unless it is used before.
	Expires time.Time `json:"expires,omitzero"`
}

// ClientFilter selects clients.
type ClientFilter struct {
	// Kind is ClientRegistered, ClientConfigured or ClientDocument. Empty selects all.
	Kind string

	// After is the id of the last client of the page before. Limit is the size of a page, 1 to 1000, 100 when zero.
	After string
	Limit int
}

// ClientPage is a page of clients, ordered by id. Next is the After of the page behind it, empty on the last.
type ClientPage struct {
	Clients []*ClientInfo `json:"clients"`
	Next    string        `json:"next,omitempty"`
}

// Clients lists the clients: those of the configuration, those that registered themselves, and those whose metadata documents this node has fetched lately.
func (s *Server) Clients(ctx context.Context, f ClientFilter) (*ClientPage, error) {
	limit := cmp.Or(f.Limit, 100)
	switch {
	case limit < 1 || limit > 1000:
		return nil, refuse("invalid_request", "limit must be 1 to 1000")
	case f.Kind != "" && !slices.Contains([]string{ClientRegistered, ClientConfigured, ClientDocument}, f.Kind):
		return nil, refuse("invalid_request", fmt.Sprintf("kind %q is none: write %s, %s or %s", f.Kind, ClientRegistered, ClientConfigured, ClientDocument))
	}
	var all []*ClientInfo
	if f.Kind == "" || f.Kind == ClientConfigured {
		for _, c := range s.configured {
			all = append(all, s.describeClient(&c.Client, c.Proxies))
		}
	}
	if f.Kind == "" || f.Kind == ClientDocument {
		for _, c := range s.documents.clients() {
			all = append(all, s.describeClient(c, nil))
		}
	}
	all = slices.DeleteFunc(all, func(c *ClientInfo) bool { return c.ID <= f.After })
	more := false
	if f.Kind == "" || f.Kind == ClientRegistered {
		registered, next, err := s.vault.Clients(ctx, f.After, limit)
		switch {
		case err != nil && !errors.Is(err, tokenstore.ErrTampered):
			return nil, fmt.Errorf("clients: %w", err)
		case err != nil:
			s.log.Error("clients that do not open are not listed", zap.Error(err))
		}
		for _, c := range registered {
			all = append(all, s.describeClient(c, nil))
		}
		if more = next != ""; more { // what lies behind this page of the vault belongs to a later one
			all = slices.DeleteFunc(all, func(c *ClientInfo) bool { return c.ID > next })
		}
	}
	slices.SortFunc(all, func(a, b *ClientInfo) int { return strings.Compare(a.ID, b.ID) })
	if len(all) > limit {
		all, more = all[:limit], true
	}
	page := &ClientPage{Clients: append([]*ClientInfo{}, all...)}
	if more && len(all) > 0 {
		page.Next = all[len(all)-1].ID
	}
	return page, nil
}

// ClientInfo describes one client. A metadata document is not fetched for it: of one that this node does not have, a grant tells the name. A client that is not
// there is an *Error with status 404.
func (s *Server) ClientInfo(ctx context.Context, id string) (*ClientInfo, error) {
	if c := s.configured[id]; c != nil {
		return s.describeClient(&c.Client, c.Proxies), nil
	}
	if !strings.HasPrefix(id, "https://") {
		if !plausibleID(id) {
			return nil, errNoClient()
		}
		c, err := s.vault.Client(ctx, id)
		switch {
		case errors.Is(err, tokenstore.ErrNotFound):
			return nil, errNoClient()
		case err != nil:
			return nil, fmt.Errorf("client: %w", err)
		}
		return s.describeClient(c, nil), nil
	}
	for _, c := range s.documents.clients() {
		if c.ID == id {
			return s.describeClient(c, nil), nil
		}
	}
	grants, err := s.grantsOfClient(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case len(grants) == 0:
		return nil, errNoClient()
	}
	g := grants[0]
	c := &ClientInfo{ID: id, Kind: ClientDocument, Name: g.Client, RedirectURIs: []string{}, GrantTypes: []string{grantCode}, AuthMethod: authNone}
	if g.RedirectURI != "" {
		c.RedirectURIs = append(c.RedirectURIs, g.RedirectURI)
	}
	return c, nil
}

// grantsOfClient finds a grant of a client, if there is any. An id that no reference in the vault can hold has none.
func (s *Server) grantsOfClient(ctx context.Context, id string) ([]*tokenstore.Grant, error) {
	if len(id) > maxDocumentID || strings.IndexFunc(id, func(c rune) bool { return c <= ' ' || c >= 0x7f }) >= 0 {
		return nil, nil
	}
	grants, err := s.vault.Grants(ctx, tokenstore.GrantQuery{ClientID: id, Limit: 1})
	if err != nil && !errors.Is(err, tokenstore.ErrTampered) {
		return nil, fmt.Errorf("client's grants: %w", err)
	}
	return grants, nil
}

func errNoClient() *Error {
	return &Error{Status: http.StatusNotFound, Code: "not_found", Description: "there is no client of this id"}
}

// describeClient is what operators see of a client, never its secret's or registration access token's hash.
func (s *Server) describeClient(c *tokenstore.Client, proxies []string) *ClientInfo {
	info := &ClientInfo{
		ID: c.ID, Kind: ClientConfigured, Name: c.Name, URI: c.URI, ApplicationType: c.ApplicationType, AuthMethod: c.AuthMethod, JWKSURI: c.JWKSURI,
		RedirectURIs: append([]string{}, c.RedirectURIs...), GrantTypes: append([]string{}, c.GrantTypes...), Proxies: proxies,
	}
	switch {
	case s.isRegistered(c):
		info.Kind, info.Created, info.Used, info.Expires = ClientRegistered, c.Created, c.Used, c.DeleteAfter
		if c.Proxy != "" {
			info.Proxies = []string{c.Proxy}
		}
	case strings.HasPrefix(c.ID, "https://"):
		info.Kind = ClientDocument
	}
	return info
}

// clients are those whose documents are kept.
func (d *documents) clients() []*tokenstore.Client {
	d.mu.Lock()
	defer d.mu.Unlock()
	var clients []*tokenstore.Client
	for _, cache := range []*recent[string, fetched]{d.used, d.seen} {
		for _, e := range cache.values() {
			if c, ok := e.value.(*tokenstore.Client); ok {
				clients = append(clients, c)
			}
		}
	}
	return clients
}
