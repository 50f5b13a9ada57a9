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
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// maxAPIKeyName is how long a key's name may be, in characters.
const maxAPIKeyName = 100

// Lifetimes of API keys. None lives for ever, nor so long that nobody knows any more who has it: over a year whoever uses it must be heard of again.
const (
	MinAPIKeyLifetime     = time.Minute
	DefaultAPIKeyLifetime = 90 * 24 * time.Hour
	MaxAPIKeyLifetime     = 365 * 24 * time.Hour
)

// NewAPIKey is what the operator says of an API key that is to be made.
type NewAPIKey struct {
	// Name says to people what the key is for: 1 to 100 printable characters. Required.
	Name string

	// Proxies are the ids of the proxies that the key is for. At least one; each must have an upstream token that is no user's.
	Proxies []string

	// Scopes are the key's, each one of some of the proxies. Every proxy must have one of them. Default: all that the proxies have now.
	Scopes []string

	// Lifetime is how long the key lives, from MinAPIKeyLifetime to MaxAPIKeyLifetime. Default: DefaultAPIKeyLifetime.
	Lifetime time.Duration
}

// APIKey is what operators see of an API key.
type APIKey struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Proxies []string  `json:"proxies"`
	Scopes  []string  `json:"scopes"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Used    time.Time `json:"used,omitzero"`    // for the last time, to within a day
	Revoked time.Time `json:"revoked,omitzero"` // when it was
	State   string    `json:"state"`            // active, expired or revoked
}

// CreateAPIKey makes an API key, and returns it this once. What is wrong with the request is an *Error; others are what the vault says.
func (s *Server) CreateAPIKey(ctx context.Context, n NewAPIKey) (key string, made *APIKey, err error) {
	if n.Lifetime == 0 {
		n.Lifetime = DefaultAPIKeyLifetime
	}
	n.Name = strings.TrimSpace(n.Name)
	if err := s.checkNewAPIKey(&n); err != nil {
		return "", nil, err
	}
	now := s.vault.Now()
	record := &tokenstore.APIKey{
		Meta: tokenstore.Meta{ID: randomHex(apiKeyIDSize)}, Name: n.Name, Proxies: n.Proxies, Scopes: n.Scopes,
		Created: now, Expires: now.Add(n.Lifetime),
	}
	record.DeleteAfter = record.Expires.Add(s.life.Retention)
	key = tokenstore.APIKeyPrefix + record.ID + "_" + randomHex(apiKeySecretSize)
	record.Hash = s.vault.Hash(purposeAPIKey, key)
	if err := s.vault.Commit(ctx, tokenstore.Save(record), tokenstore.RecordEvent(s.apiKeyEvent(ctx, tokenstore.EventAPIKeyCreated, record))); err != nil {
		return "", nil, fmt.Errorf("store API key: %w", err)
	}
	return key, s.describe(record), nil
}

// checkNewAPIKey says what is wrong with a key to be made, and settles its proxies and scopes.
func (s *Server) checkNewAPIKey(n *NewAPIKey) error {
	bad := func(format string, args ...any) error { return refuse("invalid_request", fmt.Sprintf(format, args...)) }
	switch {
	case n.Name == "":
		return bad("name is missing: say what the key is for, for example nightly report")
	case utf8.RuneCountInString(n.Name) > maxAPIKeyName || !utf8.ValidString(n.Name) || strings.ContainsFunc(n.Name, func(c rune) bool { return !unicode.IsPrint(c) }):
		return bad("name must be at most %d printable characters", maxAPIKeyName)
	case n.Lifetime < MinAPIKeyLifetime || n.Lifetime > MaxAPIKeyLifetime:
		return bad("a key lives for 1m to 365d: make another before it expires")
	case len(n.Proxies) == 0:
		return bad("proxies is missing: name those that the key is for; %s", s.openToAPIKeys())
	}
	n.Proxies, n.Scopes = distinct(n.Proxies), distinct(n.Scopes)
	var all []string
	for _, id := range n.Proxies {
		p := s.proxies[id]
		switch {
		case p == nil:
			return bad("proxy %q is not declared; %s", id, s.openToAPIKeys())
		case !p.Machines:
			return bad("proxy %q has no upstream token for an API key, which acts for no user: set its machine_token, or its upstream_token to client_credentials or static; %s",
				id, s.openToAPIKeys())
		case len(n.Scopes) > 0 && len(common(n.Scopes, p.Scopes)) == 0:
			return bad("scopes: none is one of proxy %q, which has %s", id, strings.Join(p.Scopes, ", "))
		}
		all = append(all, p.Scopes...)
	}
	for _, scope := range n.Scopes {
		if !slices.Contains(all, scope) {
			return bad("scopes: %q is none of the proxies', which have %s", scope, strings.Join(distinct(all), ", "))
		}
	}
	if len(n.Scopes) == 0 {
		n.Scopes = distinct(all)
	}
	return nil
}

// openToAPIKeys names the proxies that keys can be made for.
func (s *Server) openToAPIKeys() string {
	var ids []string
	for _, p := range s.order {
		if p.Machines {
			ids = append(ids, p.ID)
		}
	}
	return "open to API keys are: " + cmp.Or(strings.Join(ids, ", "), "none")
}

// APIKeys lists the API keys, the newest first. Those that were revoked or have expired are kept for as long as ended grants.
func (s *Server) APIKeys(ctx context.Context) ([]*APIKey, error) {
	records, err := s.vault.APIKeys(ctx)
	switch {
	case err != nil && !errors.Is(err, tokenstore.ErrTampered):
		return nil, fmt.Errorf("API keys: %w", err)
	case err != nil:
		s.log.Error("API keys that do not open are not listed", zap.Error(err))
	}
	keys := make([]*APIKey, 0, len(records))
	for _, record := range records {
		keys = append(keys, s.describe(record))
	}
	slices.SortStableFunc(keys, func(a, b *APIKey) int { return b.Created.Compare(a.Created) })
	return keys, nil
}

// RevokeAPIKey ends an API key: the next request with it is refused. One that was revoked before stays as it is. An id of no key is
// an *Error with status 404; others are what the vault says.
func (s *Server) RevokeAPIKey(ctx context.Context, id string) (*APIKey, error) {
	for {
		record, err := s.vault.APIKey(ctx, id)
		switch {
		case errors.Is(err, tokenstore.ErrNotFound):
			return nil, &Error{Status: http.StatusNotFound, Code: "not_found", Description: "there is no API key of this id"}
		case err != nil:
			return nil, fmt.Errorf("revoke API key: %w", err)
		case !record.Revoked.IsZero():
			return s.describe(record), nil
		}
		record.Revoked = s.vault.Now()
		record.DeleteAfter = record.Revoked.Add(s.life.Retention)
		err = s.vault.Commit(ctx, tokenstore.Save(record), tokenstore.RecordEvent(s.apiKeyEvent(ctx, tokenstore.EventAPIKeyRevoked, record)))
		if errors.Is(err, tokenstore.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("revoke API key: %w", err)
		}
		return s.describe(record), nil
	}
}

// describe is what operators see of a key.
func (s *Server) describe(k *tokenstore.APIKey) *APIKey {
	state := "active"
	switch {
	case !k.Revoked.IsZero():
		state = "revoked"
	case !s.vault.Now().Before(k.Expires):
		state = "expired"
	}
	return &APIKey{ID: k.ID, Name: k.Name, Proxies: k.Proxies, Scopes: k.Scopes, Created: k.Created, Expires: k.Expires, Used: k.Used, Revoked: k.Revoked, State: state}
}

// distinct leaves out what is there already.
func distinct(values []string) []string {
	var kept []string
	for _, v := range values {
		if !slices.Contains(kept, v) {
			kept = append(kept, v)
		}
	}
	return kept
}
