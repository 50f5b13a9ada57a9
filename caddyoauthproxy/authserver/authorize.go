package authserver

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// serveAuthorize is GET authorize (RFC 6749 §4.1.1): response_type=code, client_id, redirect_uri,
// code_challenge with S256 (RFC 7636), state, scope, resource (RFC 8707). It answers with the consent
// page, or goes on to the provider where the user has agreed before. Errors about the client or the redirect URI
// are a page, because nobody may be redirected then; all others go back to the client with error, state and iss.
//
// Nothing is stored: the checked request travels in the page, sealed, until Allow is pressed.
func (s *Server) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	if isPrefetch(w, r) {
		return
	}
	if err := s.charge(s.limits.authorize, r); err != nil {
		s.problem(w, r, err)
		return
	}
	q := r.URL.Query()
	client, redirectURI, err := s.authorizeTarget(r, q)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	req, err := s.authorizeRequest(r, q, client, redirectURI)
	if err != nil {
		s.redirectError(w, r, redirectURI, q.Get("state"), err)
		return
	}
	decision, err := s.decideConsent(r, req, q)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	if decision.ask {
		page, err := s.consentPage(w, r, client, req, decision)
		if err != nil {
			s.problem(w, r, err)
			return
		}
		s.pages.Consent(w, page)
		return
	}
	event := s.consentEvent(r.Context(), tokenstore.EventConsentRemembered, req, client)
	event.UserID, event.Consent, event.Reason = decision.userID, decision.event, decision.why
	s.startLogin(w, r, req, answered{browser: s.browser(w, r), userID: decision.userID, agreed: decision.agreed, event: event})
}

// isPrefetch answers a guess of the browser, which must not count as the user's visit.
func isPrefetch(w http.ResponseWriter, r *http.Request) bool {
	if !strings.Contains(r.Header.Get("Sec-Purpose"), "prefetch") {
		return false
	}
	progressOf(r.Context()).isNone()
	w.WriteHeader(http.StatusNoContent)
	return true
}

// authorizeTarget establishes who asks and where the answer goes, before anything else is looked at.
func (s *Server) authorizeTarget(r *http.Request, q url.Values) (*tokenstore.Client, string, error) {
	pinned, err := s.proxyOf(r)
	if err != nil {
		return nil, "", err
	}
	if len(q["client_id"]) > 1 || len(q["redirect_uri"]) > 1 {
		return nil, "", refuse("invalid_request", "client_id or redirect_uri is sent more than once")
	}
	client, err := s.client(r.Context(), q.Get("client_id"))
	if unacceptable, ok := errors.AsType[*unacceptableIDError](err); ok {
		return nil, "", refuse("invalid_client", "The application's "+unacceptable.Error()+". Tell the people who make the application.").because(err)
	}
	if errors.Is(err, tokenstore.ErrNotFound) {
		return nil, "", refuse("invalid_client", "This application is not known here. Remove the connection in the application and add it again, so that it registers anew.")
	}
	if errors.Is(err, errUnreachableClient) {
		return nil, "", refuse("invalid_client", "The document that describes this application could not be fetched from its address, or is not valid. Try again in a minute; if it stays, tell the people who make the application.").because(err)
	}
	if err != nil {
		return nil, "", fmt.Errorf("client: %w", err)
	}
	redirectURI := q.Get("redirect_uri")
	if redirectURI == "" && len(client.RedirectURIs) == 1 {
		redirectURI = client.RedirectURIs[0]
	}
	// The proxy may still be open here (it comes from resource, which has its own errors);
	// then any proxy's rule has to hold, and the final one is asked below.
	for _, p := range s.order {
		if pinned != nil && p != pinned || !s.mayUse(client.ID, p) {
			continue
		}
		if registeredRedirect(client.RedirectURIs, p, redirectURI) {
			return client, redirectURI, nil
		}
	}
	return nil, "", refuse("invalid_redirect_uri", "The address that the application wants you sent back to is not one that it registered, or not one that is allowed here.")
}

// authorizeRequest checks the rest of the request.
func (s *Server) authorizeRequest(r *http.Request, q url.Values, client *tokenstore.Client, redirectURI string) (*tokenstore.AuthRequest, error) {
	if err := noRepeats(q); err != nil {
		return nil, err
	}
	if !slices.Contains(client.GrantTypes, grantCode) {
		return nil, refuse("unauthorized_client", "the client is not registered for the authorization_code grant")
	}
	if q.Get("response_type") != "code" {
		return nil, refuse("unsupported_response_type", "response_type must be code")
	}
	if q.Has("request") || q.Has("request_uri") {
		return nil, refuse("request_not_supported", "send the parameters in the query")
	}
	if mode := q.Get("response_mode"); mode != "" && mode != "query" {
		return nil, refuse("invalid_request", "response_mode must be query")
	}
	if len(q.Get("state")) > maxMetadataString {
		return nil, refuse("invalid_request", "state is longer than 1024 bytes")
	}
	plain, refusal := s.pkce(q)
	if refusal != nil {
		return nil, refusal
	}
	pinned, err := s.proxyOf(r)
	if err != nil {
		return nil, err
	}
	p, refusal := s.selectProxy(pinned, q.Get("resource"), client)
	if refusal != nil {
		return nil, refusal
	}
	progressOf(r.Context()).proxy = p.ID
	if p.CheckRedirect(redirectURI) != nil || !s.mayUse(client.ID, p) {
		return nil, refuse("access_denied", "this client or its redirect URI is not allowed for this MCP server")
	}
	asked, err := s.asks(r.Context(), p)
	if err != nil {
		return nil, err
	}
	return &tokenstore.AuthRequest{
		TransactionID: rand.Text(),
		Asked:         asked,
		Providers:     p.providers(),
		ClientID:      client.ID,
		RedirectURI:   redirectURI,
		State:         q.Get("state"),
		CodeChallenge: q.Get("code_challenge"),
		PlainPKCE:     plain,
		Scopes:        grantScopes(p, q.Get("scope")),
		Proxy:         p.ID,
		Resource:      p.Resource,
		ClientHash:    s.clientHash(client),
	}, nil
}

// asks are the scopes that the provider will be asked for, which the user is told of.
func (s *Server) asks(ctx context.Context, p *Proxy) ([]string, error) {
	asked, err := p.Provider.Asks(ctx)
	if err != nil {
		return nil, &Error{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable",
			Description: "the login service cannot be reached at the moment; try again", Cause: err}
	}
	return append([]string{}, asked...), nil
}

// pkce checks the code challenge (RFC 7636 §4.3), and says whether it is the verifier itself. A missing method means plain, which is as good
// as nothing where the operator does not accept that.
func (s *Server) pkce(q url.Values) (plain bool, err *Error) {
	challenge, method := q.Get("code_challenge"), q.Get("code_challenge_method")
	switch {
	case challenge != "" && s.plainPKCE && (method == "plain" || method == ""):
		if !isVerifier(challenge) {
			return false, refuse("invalid_request", "code_challenge must be 43 to 128 unreserved characters")
		}
		return true, nil
	case challenge == "" || method != "S256":
		return false, refuse("invalid_request", "PKCE is required: send code_challenge with code_challenge_method=S256")
	case len(challenge) != 43 || !isBase64URL(challenge):
		return false, refuse("invalid_request", "code_challenge must be 43 base64url characters")
	}
	return false, nil
}

func isBase64URL(v string) bool {
	return strings.IndexFunc(v, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	}) < 0
}

// sealRequest packs a checked request into the text that the consent page carries.
func (s *Server) sealRequest(req *tokenstore.AuthRequest) (string, error) {
	plain, err := json.Marshal(req)
	if err != nil {
		return "", fmt.Errorf("authorization request: %w", err)
	}
	return s.vault.Seal(purposeConsent, plain, s.vault.Now().Add(s.life.Login)), nil
}

func (s *Server) openRequest(sealed string) (*tokenstore.AuthRequest, error) {
	plain, err := s.vault.OpenSealed(purposeConsent, sealed)
	if err != nil {
		return nil, err
	}
	var req tokenstore.AuthRequest
	if err := json.Unmarshal(plain, &req); err != nil {
		return nil, fmt.Errorf("authorization request: %w", err)
	}
	return &req, nil
}

// redirectError sends the browser back to the client with an error (RFC 6749 §4.1.2.1). While the vault does not answer the user stays here instead: the
// same request, sent again, goes on where this one stopped.
func (s *Server) redirectError(w http.ResponseWriter, r *http.Request, redirectURI, state string, err error) {
	e := asError(err)
	if unreachable(err) {
		s.problem(w, r, err)
		return
	}
	code := e.Code
	if e.Status == http.StatusNotFound {
		code = "invalid_request"
	}
	s.logRefusal(r, e, http.StatusSeeOther)
	s.redirectClient(w, r, redirectURI, state, url.Values{"error": {code}, "error_description": {e.Description}})
}

// redirectClient sends the browser back to the client. 303, so that a form is never posted on (RFC 9700 §2.1).
func (s *Server) redirectClient(w http.ResponseWriter, r *http.Request, redirectURI, state string, params url.Values) {
	target, err := s.clientRedirect(redirectURI, state, params)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	w.Header().Set("Location", target)
	w.WriteHeader(http.StatusSeeOther)
}

// problem shows a person what went wrong.
func (s *Server) problem(w http.ResponseWriter, r *http.Request, err error) {
	e := asError(err)
	status := e.Status
	if status == 0 || e.Code == "invalid_client" {
		status = http.StatusBadRequest
	}
	e.setRetryAfter(w.Header())
	s.logRefusal(r, e, status)
	p := console.Problem{Title: "This sign-in cannot go on", Text: e.Description, Code: e.Code, Home: s.issuer + homePath,
		Advice: "Go back to the application and start the connection again."}
	switch {
	case status == http.StatusTooManyRequests:
		p.Title, p.Advice = "Too many sign-ins from here", "Wait a moment, and load this page again."
	case status >= 500:
		p.Title = "The gateway is in trouble"
		p.Advice = "Nothing is lost. Try again in a minute; if it stays, tell the people who run this gateway."
	}
	s.pages.Problem(w, status, p)
}
