package authserver

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Refresh tokens rotate with every use, and using a replaced one ends the grant (RFC 9700 §4.14.2). Honest
// clients present a replaced token too: answers get lost and processes share a token file. So for
// a short grace after it was replaced a token is answered with the newest one, which is then the same for everybody.
//
// No token is stored for that. Each is derived, by a key in the vault, from its predecessor: from any
// token of the family the server comes to the newest, on any node, and the vault holds nothing but that one's keyed hash. Deriving
// forward also proves that an old token really was one of the family, so that guessing cannot end anybody's grant.

// refreshPrefix tells people and secret scanners what the string is.
const refreshPrefix = "gwr_"

const (
	// maxGenerations bounds how far back a replaced token is recognised, in rotations.
	maxGenerations = 10_000

	// maxReplaced bounds for how many replaced tokens the grace holds at once.
	maxReplaced = 32
)

// refreshToken is a parsed refresh token: the grant's id and the generation in clear, and a secret.
type refreshToken struct {
	grantID    string
	generation uint32
	secret     string // 43 base64url characters
}

func (t refreshToken) String() string {
	var gen [4]byte
	binary.BigEndian.PutUint32(gen[:], t.generation)
	return refreshPrefix + base64.RawURLEncoding.EncodeToString(append(gen[:], t.grantID...)) + "." + t.secret
}

func parseRefreshToken(raw string) (refreshToken, bool) {
	body, ok := strings.CutPrefix(raw, refreshPrefix)
	if !ok || len(raw) > 256 {
		return refreshToken{}, false
	}
	head, secret, ok := strings.Cut(body, ".")
	if !ok || len(secret) != 43 || !isBase64URL(secret) || !isBase64URL(head) {
		return refreshToken{}, false
	}
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(head)
	if err != nil || len(decoded) < 5 || !plausibleID(string(decoded[4:])) {
		return refreshToken{}, false
	}
	return refreshToken{string(decoded[4:]), binary.BigEndian.Uint32(decoded), secret}, true
}

// successor derives the token that replaces t.
func (s *Server) successor(t refreshToken) refreshToken {
	return refreshToken{t.grantID, t.generation + 1, s.vault.Derive(purposeRefresh, t.grantID, t.secret)}
}

// startFamily issues a grant's first refresh token.
func (s *Server) startFamily(g *tokenstore.Grant, now time.Time) string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	t := refreshToken{g.ID, 1, base64.RawURLEncoding.EncodeToString(b[:])}
	g.Family = tokenstore.RefreshFamily{}
	s.advance(g, t, now)
	return t.String()
}

// advance makes t the newest token of the grant and renews the grant's life.
func (s *Server) advance(g *tokenstore.Grant, t refreshToken, now time.Time) {
	var replaced []time.Time
	if g.Family.Generation > 0 {
		replaced = append(replaced, now)
	}
	for _, at := range g.Family.Replaced {
		if len(replaced) < maxReplaced && !now.After(at.Add(s.life.RefreshGrace)) {
			replaced = append(replaced, at)
		}
	}
	g.Family = tokenstore.RefreshFamily{
		Generation: t.generation,
		Current:    s.vault.Hash(purposeRefresh, t.String()),
		Replaced:   replaced,
		Rotated:    now,
		JTI:        rand.Text(),
	}
	g.Expires = now.Add(s.life.RefreshIdle)
	if g.Expires.After(g.Ends) {
		g.Expires = g.Ends
	}
	g.DeleteAfter = g.Expires.Add(s.life.Retention)
}

// standing is what a refresh token is to its grant.
type standing int

const (
	foreign  standing = iota // never was one of this grant's
	newest                   // the valid one
	replaced                 // one before it, within the grace
	reused                   // one before it, and the grace is over
)

// standingOf judges a token, and derives the newest one from it.
func (s *Server) standingOf(t refreshToken, f tokenstore.RefreshFamily) (standing, refreshToken) {
	if t.generation > f.Generation || f.Generation-t.generation > maxGenerations {
		return foreign, t
	}
	back := int(f.Generation - t.generation)
	for range back {
		t = s.successor(t)
	}
	if f.Current == "" || subtle.ConstantTimeCompare([]byte(s.vault.Hash(purposeRefresh, t.String())), []byte(f.Current)) != 1 {
		return foreign, t
	}
	switch {
	case back == 0:
		return newest, t
	case back <= len(f.Replaced) && !s.vault.Now().After(f.Replaced[back-1].Add(s.life.RefreshGrace)):
		return replaced, t
	default:
		return reused, t
	}
}

// redeemRefresh rotates a refresh token (RFC 6749 §6).
func (s *Server) redeemRefresh(ctx context.Context, client *tokenstore.Client, pinned *Proxy, form url.Values) (*tokenResponse, error) {
	t, ok := parseRefreshToken(form.Get("refresh_token"))
	if !ok {
		return nil, refuse("invalid_grant", "this is not a refresh token of this gateway")
	}
	// A lost race against another request with the same token is read again: its answer
	// is then repeated. Twice is enough for a race; the rest is for unrelated writes to the grant.
	for range 5 {
		answer, err := s.tryRefresh(ctx, client, pinned, form, t)
		if !errors.Is(err, tokenstore.ErrConflict) {
			return answer, err
		}
	}
	return nil, fmt.Errorf("rotate refresh token: %w", tokenstore.ErrConflict)
}

func (s *Server) tryRefresh(ctx context.Context, client *tokenstore.Client, pinned *Proxy, form url.Values, t refreshToken) (answer *tokenResponse, err error) {
	invalid := func(cause string) error {
		return refuse("invalid_grant", "the refresh token is unknown, expired, replaced or was issued to another client").because(errors.New(cause))
	}
	grant, err := s.vault.Grant(ctx, t.grantID)
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return nil, invalid("no such grant")
	case err != nil:
		return nil, fmt.Errorf("grant: %w", err)
	case grant.ClientID != client.ID:
		return nil, invalid("token of another client")
	}
	stands, head := s.standingOf(t, grant.Family)
	if stands == foreign {
		return nil, invalid("not a token of this grant")
	}
	progressOf(ctx).proxy = grant.Proxy
	defer func() {
		if err != nil {
			err = &grantError{err, grant}
		}
	}()
	if err := s.checkGrant(grant, client, pinned, form); err != nil {
		return nil, err
	}
	scopes, refusal := narrow(grant.Scopes, form.Get("scope"))
	if refusal != nil {
		return nil, refusal
	}
	if stands == reused {
		if err := s.endGrant(ctx, grant.ID, reasonReuse, s.grantEvent(ctx, tokenstore.EventRefreshReplayed, grant).Refused(reasonReuse)); err != nil {
			return nil, err
		}
		return nil, invalid("replaced token used again")
	}
	if err := s.checkAccount(ctx, grant); err != nil {
		return nil, err
	}
	if err := s.chargeClient(ctx, client, grant); err != nil {
		return nil, err
	}
	if err := s.renewClient(ctx, client, grant); err != nil {
		return nil, fmt.Errorf("renew client: %w", err)
	}
	if stands == replaced {
		issued := s.issued(ctx, grant, grantRefresh)
		issued.Details["repeated"] = "true" // its first issue is durable
		s.vault.Note(issued)
		return s.answer(grant, scopes, head.String())
	}
	next := s.successor(head)
	s.advance(grant, next, s.vault.Now())
	if err := s.vault.Commit(ctx, tokenstore.Save(grant), tokenstore.RecordEvent(s.issued(ctx, grant, grantRefresh))); err != nil {
		return nil, fmt.Errorf("rotate refresh token: %w", err)
	}
	s.tellIssued(ctx, grantRefresh, grant, s.tokenEnd(grant))
	return s.answer(grant, scopes, next.String())
}

// checkAccount ends the refreshing where the provider has ended the login: otherwise a client
// would refresh here, be refused at the MCP server, and refresh again for ever.
//
// An account that another node ended within the last second may still count as alive here: its client is told at the next refresh.
func (s *Server) checkAccount(ctx context.Context, g *tokenstore.Grant) error {
	account, err := s.vault.RecallAccount(ctx, g.AccountID)
	if err != nil || ended(account) { // for good, as far as clients are told
		account, err = s.vault.Account(ctx, g.AccountID)
	}
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return refuse("invalid_grant", "the user's login is gone; log in again")
	case err != nil:
		return fmt.Errorf("account: %w", err)
	case ended(account):
		return refuse("invalid_grant", "the login service has ended the user's login; log in again").because(errors.New(account.Reason))
	}
	return nil
}

func ended(a *tokenstore.Account) bool {
	return a.State == tokenstore.StateNeedsReauth || a.State == tokenstore.StateRevoked
}

// narrow applies a scope parameter to what was granted: less is fine, more is not (RFC 6749 §6).
// Scopes that the gateway left out when it granted are left out again.
func narrow(granted []string, requested string) ([]string, *Error) {
	if requested == "" {
		return granted, nil
	}
	var kept []string
	for sc := range strings.FieldsSeq(requested) {
		if slices.Contains(granted, sc) && !slices.Contains(kept, sc) {
			kept = append(kept, sc)
		}
	}
	if len(kept) == 0 {
		return nil, refuse("invalid_scope", "none of these scopes was granted")
	}
	return kept, nil
}
