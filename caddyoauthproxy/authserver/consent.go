package authserver

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"go.uber.org/zap"
	"golang.org/x/oauth2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// The gateway is one client at each provider on behalf of many chatbots. A provider that
// remembers the user's consent would let any new chatbot through unseen (the confused deputy of the MCP
// security page), so the gateway asks by itself, per client, before the provider.

// consentPage describes the page that asks the user.
func (s *Server) consentPage(w http.ResponseWriter, r *http.Request, c *tokenstore.Client, req *tokenstore.AuthRequest) (console.Consent, error) {
	sealed, err := s.sealRequest(req)
	if err != nil {
		return console.Consent{}, err
	}
	p := s.proxies[req.Proxy]
	redirect, err := url.Parse(req.RedirectURI)
	if err != nil {
		return console.Consent{}, fmt.Errorf("redirect URI: %w", err)
	}
	host := redirect.Host
	if redirect.Scheme != "https" && redirect.Scheme != "http" {
		host = redirect.Scheme + ":"
	}
	page := console.Consent{
		Action:       s.issuer + endpointPath + "/consent",
		Request:      sealed,
		CSRF:         s.csrfToken(s.browser(w, r), req),
		ClientName:   c.Name,
		ClientID:     c.ID,
		ClientURI:    c.URI,
		RedirectHost: host,
		Loopback:     !slices.ContainsFunc(c.RedirectURIs, func(uri string) bool { u, err := url.Parse(uri); return err != nil || !IsLoopback(u) }),
		Proxy:        p.Name,
		Resource:     p.Resource,
		Provider:     p.Provider.Name(),
	}
	for _, scope := range p.Provider.Scopes() {
		page.Scopes = append(page.Scopes, console.Scope{Name: scope})
	}
	return page, nil
}

// csrfToken ties the form to the browser that was shown it, and to this one request. The page may be
// fetched twice by a nervous browser: every copy stays valid.
func (s *Server) csrfToken(browser string, req *tokenstore.AuthRequest) string {
	return s.vault.Derive(purposeCSRF, browser, req.TransactionID)
}

// serveConsent is POST consent: the user's answer, from the form of the consent page. Allow
// opens a login and redirects to the provider; anything else goes back to the client with access_denied.
func (s *Server) serveConsent(w http.ResponseWriter, r *http.Request) {
	req, browser, err := s.consentAnswer(w, r)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	client, err := s.loadClient(r.Context(), req.ClientID)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	// Minutes may lie between the page and the answer: the redirect is judged again by what holds now.
	p := s.proxies[req.Proxy]
	if p == nil || !registeredRedirect(client.RedirectURIs, p, req.RedirectURI) {
		s.problem(w, r, refuse("invalid_redirect_uri", "The application's registration or this gateway's configuration has changed meanwhile."))
		return
	}
	if r.PostForm.Get("decision") != "allow" {
		s.logDecision("consent refused", req)
		s.redirectError(w, r, req.RedirectURI, req.State, refuse("access_denied", "the user said no"))
		return
	}
	target, err := s.openLogin(w, r, p, req, browser)
	if err != nil {
		s.redirectError(w, r, req.RedirectURI, req.State, err)
		return
	}
	s.logDecision("consent given", req, zap.String("provider", p.Provider.Name()))
	w.Header().Set("Location", target)
	w.WriteHeader(http.StatusSeeOther)
}

// consentAnswer accepts the form only from our own page, in the browser that was shown it.
func (s *Server) consentAnswer(w http.ResponseWriter, r *http.Request) (*tokenstore.AuthRequest, string, error) {
	forbidden := func(cause error) error {
		return &Error{Status: http.StatusForbidden, Code: "access_denied", Cause: cause,
			Description: "This answer did not come from the page that asked. If you pressed the button yourself: your browser may be blocking cookies for this site."}
	}
	if err := s.csrf.Check(r); err != nil {
		return nil, "", forbidden(err)
	}
	form, err := readForm(w, r)
	if err != nil {
		return nil, "", err
	}
	req, err := s.openRequest(form.Get("request"))
	switch {
	case errors.Is(err, tokenstore.ErrExpired):
		return nil, "", refuse("access_denied", "You took longer than this page is valid.").because(err)
	case err != nil:
		return nil, "", forbidden(err)
	}
	browser := s.cookie(r, browserCookie)
	if browser == "" || subtle.ConstantTimeCompare([]byte(form.Get("csrf")), []byte(s.csrfToken(browser, req))) != 1 {
		return nil, "", forbidden(errors.New("form token does not belong to this browser"))
	}
	return req, browser, nil
}

// openLogin stores the login and gives the provider's URL. State and cookie are derived from
// the transaction, so that a second press of the button leads to the same place.
func (s *Server) openLogin(w http.ResponseWriter, r *http.Request, p *Proxy, req *tokenstore.AuthRequest, browser string) (string, error) {
	state := s.vault.Derive(purposeState, req.TransactionID)
	cookie := s.vault.Derive(purposeLoginCookie, req.TransactionID, browser)
	now := s.vault.Now()
	login := &tokenstore.Login{
		Meta:     tokenstore.Meta{ID: s.vault.Hash(purposeState, state), DeleteAfter: now.Add(s.life.Login + tidyAfter)},
		Request:  *req,
		Provider: p.Provider.Name(),
		Browser:  s.vault.Hash(purposeBrowser, cookie),
		Nonce:    oauth2.GenerateVerifier(),
		Verifier: oauth2.GenerateVerifier(),
		Expires:  now.Add(s.life.Login),
	}
	err := s.vault.Commit(r.Context(), tokenstore.Save(login))
	if errors.Is(err, tokenstore.ErrConflict) {
		login, err = s.vault.Login(r.Context(), login.ID)
		if err == nil && subtle.ConstantTimeCompare([]byte(login.Browser), []byte(s.vault.Hash(purposeBrowser, cookie))) != 1 {
			return "", refuse("access_denied", "this page was answered in another browser")
		}
	}
	if err != nil {
		return "", fmt.Errorf("open login: %w", err)
	}
	target, err := p.Provider.AuthorizationURL(r.Context(), upstream.AuthRequest{
		State: state, Nonce: login.Nonce, Verifier: login.Verifier, RedirectURI: s.RedirectURI(),
	})
	if err != nil {
		return "", &Error{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable",
			Description: "the login service cannot be reached at the moment; try again", Cause: err}
	}
	s.setLoginCookie(w, r, login.ID, cookie)
	return target, nil
}
