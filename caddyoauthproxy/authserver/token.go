package authserver

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Grant types (RFC 6749 §4.1.3, §6, §4.4).
const (
	grantCode    = "authorization_code"
	grantRefresh = "refresh_token"
	grantMachine = "client_credentials"
)

// replayTolerance is how soon a code may be presented again without harm: clients that lost the
// first answer repeat the request, and must not kill the tokens that a parallel one got.
const replayTolerance = 10 * time.Second

// tokenResponse is the successful answer (RFC 6749 §5.1). refresh_token is in every one, unless the client
// registered without that grant type: chatbots keep only the last answer's.
type tokenResponse struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	RefreshToken string `json:"refresh_token,omitempty"`
	Scope        string `json:"scope,omitempty"`
}

// serveToken is POST token (RFC 6749 §3.2): a form with grant_type authorization_code (code, redirect_uri,
// code_verifier) or refresh_token (refresh_token, optionally scope to narrow), optionally resource, and
// client authentication. It answers a JWT access token and the next refresh token.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	client, pinned, form, err := s.clientRequest(w, r)
	var answer *tokenResponse
	if err == nil {
		ctx := tokenstore.WithActor(r.Context(), clientActor(client))
		answer, err = s.token(ctx, client, pinned, form)
	}
	switch {
	case err == nil:
		s.clientRequestDone(r)
		writeJSON(w, http.StatusOK, answer)
	case s.tokenRefused(r, client, form.Get("grant_type"), err):
		sendError(w, r, asError(err))
	default:
		s.writeError(w, r, err)
	}
}

func (s *Server) token(ctx context.Context, client *tokenstore.Client, pinned *Proxy, form url.Values) (*tokenResponse, error) {
	grantType := form.Get("grant_type")
	switch grantType {
	case grantCode, grantRefresh, grantMachine:
	case "":
		return nil, refuse("invalid_request", "grant_type is missing")
	default:
		return nil, refuse("unsupported_grant_type", "grant_type must be authorization_code, refresh_token or client_credentials")
	}
	if !slices.Contains(client.GrantTypes, grantType) {
		return nil, refuse("unauthorized_client", "the client is not registered for this grant_type")
	}
	// Everything that can be wrong with the request itself is found before a credential is used up.
	if named, refusal := s.proxyByResource(form.Get("resource")); refusal != nil {
		return nil, refusal
	} else if named != nil && pinned != nil && named != pinned {
		return nil, refuse("invalid_target", "resource is not the one of this proxy's endpoint")
	}
	switch grantType {
	case grantCode:
		progressOf(ctx).step = StepCode
		return s.redeemCode(ctx, client, pinned, form)
	case grantRefresh:
		progressOf(ctx).step = StepRefresh
		return s.redeemRefresh(ctx, client, pinned, form)
	default:
		progressOf(ctx).step = StepMachine
		return s.issueToMachine(ctx, client, pinned, form)
	}
}

// chargeClient counts a token that a client is about to get. Each grant of a public client counts by itself: anybody with a refresh token can speak
// for a client that millions share, and should not use up what the others need.
func (s *Server) chargeClient(ctx context.Context, c *tokenstore.Client, g *tokenstore.Grant) error {
	key := c.ID
	if c.AuthMethod == authNone {
		key += " " + g.ID
	}
	return tooMany(s.limits.client.charge(ctx, key, s.vault.Now()))
}

// redeemCode exchanges an authorization code.
func (s *Server) redeemCode(ctx context.Context, client *tokenstore.Client, pinned *Proxy, form url.Values) (*tokenResponse, error) {
	// A lost race is looked at again: that against another request with the same code finds it used, and that against an unrelated write to the
	// grant or the account finds it as it was.
	for range 5 {
		answer, err := s.tryCode(ctx, client, pinned, form)
		if !errors.Is(err, tokenstore.ErrConflict) {
			return answer, err
		}
	}
	return nil, fmt.Errorf("redeem code: %w", tokenstore.ErrConflict)
}

// tryCode is one attempt. Each binding of the code refuses by itself, and a refused attempt leaves the code as it was.
func (s *Server) tryCode(ctx context.Context, client *tokenstore.Client, pinned *Proxy, form url.Values) (answer *tokenResponse, err error) {
	raw, verifier := form.Get("code"), form.Get("code_verifier")
	if raw == "" || verifier == "" {
		return nil, refuse("invalid_request", "code and code_verifier are required")
	}
	invalid := func(cause string) error {
		return refuse("invalid_grant", "the code is unknown, expired, used, or was issued for another client, redirect URI or code_verifier").because(errors.New(cause))
	}
	if len(raw) != 43 || !isBase64URL(raw) {
		return nil, invalid("malformed code")
	}
	code, err := s.vault.Code(ctx, s.vault.Hash(purposeCode, raw))
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return nil, invalid("unknown code")
	case err != nil:
		return nil, fmt.Errorf("code: %w", err)
	case code.ClientID != client.ID:
		return nil, invalid("code of another client")
	case form.Has("redirect_uri") && form.Get("redirect_uri") != code.RedirectURI:
		return nil, invalid("another redirect_uri")
	case !verifiesPKCE(verifier, code):
		return nil, invalid("wrong code_verifier")
	}
	now := s.vault.Now()
	if !code.Used.IsZero() {
		return nil, s.replayedCode(ctx, code, now, invalid)
	}
	if !now.Before(code.Expires) {
		return nil, invalid("expired code")
	}
	grant, err := s.vault.Grant(ctx, code.GrantID)
	if err != nil {
		return nil, fmt.Errorf("grant: %w", err)
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
	account, err := s.vault.Account(ctx, grant.AccountID)
	if err != nil {
		return nil, fmt.Errorf("account: %w", err)
	}

	if err := s.chargeClient(ctx, client, grant); err != nil {
		return nil, err
	}
	if err := s.renewClient(ctx, client, grant); err != nil {
		return nil, fmt.Errorf("renew client: %w", err)
	}
	code.Used = now
	account.DeleteAfter = grant.Ends.Add(s.life.Retention)
	refresh := s.startFamily(grant, now)
	err = s.vault.Commit(ctx, tokenstore.Save(code), tokenstore.Save(grant), tokenstore.Save(account), tokenstore.RecordEvent(s.issued(ctx, grant, grantCode)))
	if errors.Is(err, tokenstore.ErrUnavailable) && s.codeWasRedeemed(ctx, code, grant) {
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("redeem code: %w", err)
	}
	s.tellIssued(ctx, grantCode, grant, s.tokenEnd(grant))
	s.background(ctx, func(ctx context.Context) { // the code is used up: the client gets its tokens all the same, and at once
		if err := s.limitGrants(ctx, grant); err != nil {
			s.log.Error("older grants could not be ended", grantFields(grant, zap.Error(err))...)
		}
	})
	if !slices.Contains(client.GrantTypes, grantRefresh) {
		refresh = ""
	}
	return s.answer(grant, grant.Scopes, refresh)
}

// codeWasRedeemed finds out whether a redemption was made that the vault lost sight of. It waits for the vault for a while: the code would be used up, and its
// client would have nothing.
func (s *Server) codeWasRedeemed(ctx context.Context, code *tokenstore.Code, redeemed *tokenstore.Grant) bool {
	ctx, cancel := context.WithTimeout(ctx, judgeTime)
	defer cancel()
	for {
		stored, err := s.vault.Grant(ctx, code.GrantID)
		switch {
		case err == nil:
			return stored.Family.JTI == redeemed.Family.JTI
		case !errors.Is(err, tokenstore.ErrUnavailable) || !pause(ctx, insistFirst):
			return false
		}
	}
}

// limitGrants ends the user's oldest grants of the same client and redirect URI where there are too many: each login makes one, and
// a client that logs in over and over would fill the vault.
func (s *Server) limitGrants(ctx context.Context, newest *tokenstore.Grant) error {
	grants, err := s.vault.RefreshableGrants(ctx, newest.UserID, newest.ClientID)
	if err != nil && len(grants) == 0 {
		return fmt.Errorf("list the user's grants: %w", err)
	}
	now := s.vault.Now()
	grants = slices.DeleteFunc(grants, func(g *tokenstore.Grant) bool {
		return g.ID == newest.ID || !now.Before(g.Expires) || s.over(g) || g.RedirectURI != newest.RedirectURI || g.Proxy != newest.Proxy
	})
	slices.SortFunc(grants, func(a, b *tokenstore.Grant) int { return a.Family.Rotated.Compare(b.Family.Rotated) })
	for len(grants) >= s.maxGrants {
		gateway := tokenstore.WithActor(ctx, tokenstore.Actor{Kind: tokenstore.ActorGateway})
		if err := s.endGrant(gateway, grants[0].ID, reasonTooMany); err != nil {
			return err
		}
		grants = grants[1:]
	}
	return nil
}

// replayedCode refuses a code that was used before. Whoever brings client, redirect URI and verifier had
// the code rightfully, so a late second use means that somebody else had it too: the grant ends (RFC 6749 §4.1.2).
func (s *Server) replayedCode(ctx context.Context, code *tokenstore.Code, now time.Time, invalid func(string) error) error {
	replayed := s.vault.NewEvent(ctx, tokenstore.EventCodeReplayed).Refused("within the time in which clients repeat a request whose answer was lost")
	replayed.Grant, replayed.ClientID = code.GrantID, code.ClientID
	if !now.After(code.Used.Add(replayTolerance)) {
		s.vault.Note(replayed)
	} else if err := s.endGrant(ctx, code.GrantID, reasonCodeTwice, replayed.Refused(reasonCodeTwice)); err != nil {
		return err
	}
	return invalid("code used before")
}

// verifiesPKCE checks the verifier against the challenge (RFC 7636 §4.6).
func verifiesPKCE(verifier string, c *tokenstore.Code) bool {
	if !isVerifier(verifier) {
		return false
	}
	if !c.PlainPKCE {
		verifier = s256(verifier)
	}
	return subtle.ConstantTimeCompare([]byte(verifier), []byte(c.CodeChallenge)) == 1
}

// isVerifier checks the form of a code verifier (RFC 7636 §4.1).
func isVerifier(v string) bool {
	return len(v) >= 43 && len(v) <= 128 && strings.IndexFunc(v, func(c rune) bool {
		return !isBase64URL(string(c)) && c != '.' && c != '~'
	}) < 0
}

// checkGrant refuses a grant that is over, or that is not for the resource the request names. Policy
// and configuration are those of now, not of the login.
func (s *Server) checkGrant(g *tokenstore.Grant, c *tokenstore.Client, pinned *Proxy, form url.Values) error {
	p := s.proxies[g.Proxy]
	named, refusal := s.proxyByResource(form.Get("resource"))
	switch {
	case refusal != nil:
		return refusal
	case p == nil || p.Resource != g.Resource:
		return refuse("invalid_grant", "the MCP server of this grant is no longer behind this gateway")
	case named != nil && named != p:
		return refuse("invalid_target", "resource is not the one that the user agreed to")
	case pinned != nil && pinned != p:
		return refuse("invalid_grant", "the grant is for another proxy than this endpoint's")
	case s.over(g):
		return refuse("invalid_grant", "the grant was ended: "+s.endedBy(g))
	case !s.vault.Now().Before(g.Expires):
		return refuse("invalid_grant", "the grant has expired")
	case !s.mayUse(c.ID, p):
		return refuse("invalid_grant", "the client may no longer use this MCP server")
	case g.RedirectURI != "" && !registeredRedirect(c.RedirectURIs, p, g.RedirectURI):
		return refuse("invalid_grant", "the redirect URI by which the user was sent back is no longer the client's, or no longer allowed")
	case !p.hasProvidersOf(g):
		return refuse("invalid_grant", "the MCP server has another login service now; log in again")
	case !p.Allow.Permits(g.User):
		return refuse("invalid_grant", "the user may no longer use this MCP server")
	}
	return nil
}

// tokenEnd is when a grant's newest access token ends. None outlives its grant.
func (s *Server) tokenEnd(g *tokenstore.Grant) time.Time {
	if end := g.Family.Rotated.Add(s.life.AccessToken); end.Before(g.Expires) {
		return end
	}
	return g.Expires
}

// answer makes the response for a grant whose family was just advanced, or is being repeated.
func (s *Server) answer(g *tokenstore.Grant, scopes []string, refresh string) (*tokenResponse, error) {
	expires := s.tokenEnd(g)
	access, err := s.keys.sign(Claims{
		Issuer: s.issuer, Audience: g.Resource, Subject: g.UserID, ClientID: g.ClientID,
		Scope: strings.Join(scopes, " "), JTI: g.Family.JTI, GrantID: g.ID,
		IssuedAt: g.Family.Rotated.Unix(), Expires: expires.Unix(),
	})
	if err != nil {
		return nil, fmt.Errorf("sign access token: %w", err)
	}
	return &tokenResponse{
		AccessToken: access, TokenType: "Bearer", ExpiresIn: max(int64(expires.Sub(s.vault.Now())/time.Second), 0),
		RefreshToken: refresh, Scope: strings.Join(scopes, " "),
	}, nil
}

func grantFields(g *tokenstore.Grant, more ...zap.Field) []zap.Field {
	return append([]zap.Field{zap.String("grant", g.ID), zap.String("client_id", g.ClientID), zap.String("proxy", g.Proxy),
		zap.String("user", g.User.Label()), zap.String("jti", g.Family.JTI)}, more...)
}
