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

	"golang.org/x/oauth2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// The gateway is one client at each provider on behalf of many chatbots. A provider that
// remembers the user's consent would let any new chatbot through unseen (the confused deputy of the MCP
// security page), so the gateway asks by itself, per client, before the provider.

// ConsentMode says when the user is asked.
type ConsentMode string

const (
	// ConsentAlways asks at every login. It is the default.
	ConsentAlways ConsentMode = "always"

	// ConsentRemember lets users have their answer remembered, for one client, redirect URI, proxy, resource, provider
	// and set of scopes, in one browser. A start from another web site is asked about all the same.
	ConsentRemember ConsentMode = "remember"

	// ConsentOff never asks. Whoever can register can then have any user who follows a link logged in unseen.
	ConsentOff ConsentMode = "off"
)

// consentDecision says whether to ask, and what is known about earlier answers.
type consentDecision struct {
	ask      bool
	remember bool   // the answer may be remembered
	changed  bool   // the user agreed before, to something else
	why      string // not asked
	userID   string // who agreed
	agreed   time.Time
	event    string // the id of the event of that, where it is known
}

// decideConsent finds out whether the user has to be asked. A remembered consent counts only when the browser says that the
// user, and no other site, began this: otherwise a hostile page could log the user in silently.
func (s *Server) decideConsent(r *http.Request, req *tokenstore.AuthRequest, q url.Values) (consentDecision, error) {
	p := s.proxies[req.Proxy]
	switch p.Consent {
	case ConsentOff:
		return consentDecision{why: "the operator has none asked"}, nil
	case ConsentRemember:
	default:
		return consentDecision{ask: true}, nil
	}
	d := consentDecision{ask: true, remember: true}
	user := s.sessionUser(r)
	if user == "" {
		return d, nil
	}
	site := r.Header.Get("Sec-Fetch-Site")
	ownStart := (site == "none" || site == "same-origin") && !slices.Contains(strings.Fields(q.Get("prompt")), "consent")
	consent, err := s.vault.Consent(r.Context(), s.consentID(user, req))
	switch {
	case err == nil && s.consentRevoked(consent):
	case err == nil && ownStart && s.vault.Now().Before(consent.DeleteAfter):
		return consentDecision{why: "remembered", userID: user, agreed: consent.Given, event: consent.Event}, nil
	case errors.Is(err, tokenstore.ErrNotFound):
		d.changed, err = s.agreedBefore(r.Context(), user, req)
	}
	if err != nil {
		return d, fmt.Errorf("remembered consent: %w", err)
	}
	return d, nil
}

// consentID is the id of the consent that would cover exactly this request of this user.
func (s *Server) consentID(userID string, req *tokenstore.AuthRequest) string {
	p := s.proxies[req.Proxy]
	scopes := func(list []string) string { return strings.Join(slices.Sorted(slices.Values(list)), " ") }
	return s.vault.Derive(purposeRemembered, userID, req.ClientID, req.RedirectURI, req.ClientHash, req.Proxy, req.Resource,
		p.loginProvider().Name(), p.Provider.Name(), scopes(req.Asked), scopes(req.Scopes))
}

// agreedBefore reports whether the user once agreed to something else of the same client.
func (s *Server) agreedBefore(ctx context.Context, userID string, req *tokenstore.AuthRequest) (bool, error) {
	consents, err := s.vault.Consents(ctx, userID)
	return slices.ContainsFunc(consents, func(c *tokenstore.Consent) bool { return c.ClientID == req.ClientID && c.Proxy == req.Proxy }), err
}

// rememberConsent makes the record of a consent whose giver is known now.
func (s *Server) rememberConsent(ctx context.Context, login *tokenstore.Login, client, userID string) ([]tokenstore.Write, error) {
	req, now := &login.Request, s.vault.Now()
	consent, err := s.vault.Consent(ctx, s.consentID(userID, req))
	if err != nil && !errors.Is(err, tokenstore.ErrNotFound) {
		return nil, fmt.Errorf("remembered consent: %w", err)
	}
	if consent == nil {
		consent = &tokenstore.Consent{Meta: tokenstore.Meta{ID: s.consentID(userID, req)}}
	}
	consent.UserID, consent.ClientID, consent.Client, consent.RedirectURI = userID, req.ClientID, client, req.RedirectURI
	consent.Proxy, consent.Resource, consent.Provider, consent.Scopes = req.Proxy, req.Resource, login.Provider, req.Scopes
	consent.Event = req.Consent
	consent.Given, consent.Providers, consent.DeleteAfter = login.Agreed, req.Providers, now.Add(s.life.RefreshTotal)
	return []tokenstore.Write{tokenstore.Save(consent)}, nil
}

// consentPage describes the page that asks the user.
func (s *Server) consentPage(w http.ResponseWriter, r *http.Request, c *tokenstore.Client, req *tokenstore.AuthRequest, d consentDecision) (console.Consent, error) {
	sealed, err := s.sealRequest(req)
	if err != nil {
		return console.Consent{}, err
	}
	p := s.proxies[req.Proxy]
	redirect, err := url.Parse(req.RedirectURI)
	if err != nil {
		return console.Consent{}, fmt.Errorf("redirect URI: %w", err)
	}
	host, ownScheme := redirect.Host, redirect.Scheme != "https" && redirect.Scheme != "http"
	if ownScheme {
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
		Loopback:     !ownScheme && IsLoopback(redirect),
		OwnScheme:    ownScheme,
		Proxy:        p.Name,
		Resource:     p.Resource,
		Provider:     p.Provider.Name(),
		Login:        p.loginName(),
		Remember:     d.remember,
		Changed:      d.changed,
	}
	switch {
	case s.configured[c.ID] != nil:
		page.KnownToOperator = true
	case strings.HasPrefix(c.ID, "https://"):
		if u, err := url.Parse(c.ID); err == nil {
			page.VerifiedHost = u.Host
		}
	}
	for _, scope := range req.Asked {
		page.Scopes = append(page.Scopes, console.Scope{Name: scope})
	}
	if len(req.Scopes) > 1 {
		for _, scope := range req.Scopes {
			page.Choices = append(page.Choices, console.Scope{Name: scope, Text: p.ScopeTexts[scope]})
		}
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
	req, answer, err := s.consentAnswer(w, r)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	if req.Flow == tokenstore.FlowConnect {
		if !answer.allow {
			s.vault.Note(s.consentEvent(r.Context(), tokenstore.EventConsentRefused, req, nil).Refused("the user said no"))
			s.notConnected(w, r, refuse("access_denied", "You chose not to connect."))
			return
		}
		answer.event = s.consentEvent(r.Context(), tokenstore.EventConsentGiven, req, nil)
		s.startLogin(w, r, req, answer)
		return
	}
	client, err := s.loadClient(r.Context(), req.ClientID)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	// Minutes may lie between the page and the answer: the redirect is judged again by what holds now.
	p := s.proxies[req.Proxy]
	if p == nil || !registeredRedirect(client.RedirectURIs, p, req.RedirectURI) || s.clientHash(client) != req.ClientHash {
		s.problem(w, r, refuse("invalid_redirect_uri", "The application's registration or this gateway's configuration has changed meanwhile."))
		return
	}
	if !answer.allow {
		s.vault.Note(s.consentEvent(r.Context(), tokenstore.EventConsentRefused, req, client).Refused("the user said no"))
		s.redirectError(w, r, req.RedirectURI, req.State, refuse("access_denied", "the user said no"))
		return
	}
	answer.event = s.consentEvent(r.Context(), tokenstore.EventConsentGiven, req, client)
	if answer.remember {
		answer.event.Details["remember"] = "true"
	}
	s.startLogin(w, r, req, answer)
}

// answered is the user's answer: from the form, or remembered.
type answered struct {
	browser  string // the cookie of the browser that answered
	allow    bool
	remember bool      // from now on
	userID   string    // who gave the answer that was remembered
	agreed   time.Time // when they did
	event    *tokenstore.Event
}

// startLogin opens a login and sends the browser to the provider.
func (s *Server) startLogin(w http.ResponseWriter, r *http.Request, req *tokenstore.AuthRequest, a answered) {
	target, err := s.openLogin(w, r, req, a)
	switch {
	case err == nil:
		w.Header().Set("Location", target)
		w.WriteHeader(http.StatusSeeOther)
	case req.RedirectURI == "" || asError(err).Status == http.StatusTooManyRequests:
		s.problem(w, r, err)
	default:
		s.redirectError(w, r, req.RedirectURI, req.State, err)
	}
}

// consentAnswer accepts the form only from our own page, in the browser that was shown it.
func (s *Server) consentAnswer(w http.ResponseWriter, r *http.Request) (*tokenstore.AuthRequest, answered, error) {
	forbidden := func(cause error) error {
		return &Error{Status: http.StatusForbidden, Code: "access_denied", Cause: cause,
			Description: "This answer did not come from the page that asked. If you pressed the button yourself: your browser may be blocking cookies for this site."}
	}
	var none answered
	if err := s.csrf.Check(r); err != nil {
		return nil, none, forbidden(err)
	}
	form, err := readForm(w, r)
	if err != nil {
		return nil, none, err
	}
	req, err := s.openRequest(form.Get("request"))
	switch {
	case errors.Is(err, tokenstore.ErrExpired):
		return nil, none, refuse("access_denied", "You took longer than this page is valid.").because(err)
	case err != nil:
		return nil, none, forbidden(err)
	}
	browser := s.cookie(r, browserCookie)
	if browser == "" || subtle.ConstantTimeCompare([]byte(form.Get("csrf")), []byte(s.csrfToken(browser, req))) != 1 {
		return nil, none, forbidden(errors.New("form token does not belong to this browser"))
	}
	p := s.proxies[req.Proxy]
	progressOf(r.Context()).proxy = req.Proxy
	if p == nil || req.Flow == tokenstore.FlowConnect && !s.sessions || !slices.Equal(req.Providers, p.providers()) {
		return nil, none, refuse("access_denied", "This gateway's configuration has changed meanwhile.")
	}
	a := answered{browser: browser, allow: form.Get("decision") == "allow", remember: p.Consent == ConsentRemember && form.Has("remember")}
	if a.allow && len(req.Scopes) > 1 {
		req.Scopes = slices.DeleteFunc(req.Scopes, func(scope string) bool { return !form.Has("scope." + scope) })
		if len(req.Scopes) == 0 {
			return nil, none, refuse("access_denied", "Nothing was chosen that the application may do. Go back to the page before, and choose at least one, or press Do not allow.")
		}
	}
	return req, a, nil
}

// openLogin stores the login and gives the provider's URL. State and cookie are derived from
// the transaction, so that a second press of the button leads to the same place.
func (s *Server) openLogin(w http.ResponseWriter, r *http.Request, req *tokenstore.AuthRequest, a answered) (string, error) {
	if err := s.charge(s.limits.login, r); err != nil {
		return "", err
	}
	p := s.proxies[req.Proxy]
	cookie := s.vault.Derive(purposeLoginCookie, req.TransactionID, a.browser)
	login, state := s.newLogin(req, p.loginProvider(), "")
	login.Browser = s.vault.Hash(purposeBrowser, cookie)
	login.Remember, login.UserID, login.Request.Consent = a.remember, a.userID, a.event.ID
	if !a.agreed.IsZero() {
		login.Agreed = a.agreed
	}
	target, err := s.beginLogin(r.Context(), p.loginProvider(), login, state, p.Login != nil)
	if err != nil {
		s.vault.Note(a.event)
		s.vault.Note(s.loginFailed(r.Context(), login, asError(err).Code, err))
		return "", err
	}
	if err := s.makeRoomForLogin(r.Context()); err != nil {
		return "", err
	}
	err = s.vault.Commit(r.Context(), tokenstore.Save(login), tokenstore.RecordEvent(a.event))
	if errors.Is(err, tokenstore.ErrConflict) {
		login, err = s.vault.Login(r.Context(), login.ID)
		if err == nil && subtle.ConstantTimeCompare([]byte(login.Browser), []byte(s.vault.Hash(purposeBrowser, cookie))) != 1 {
			return "", refuse("access_denied", "this page was answered in another browser")
		}
		if err == nil {
			target, err = s.beginLogin(r.Context(), p.loginProvider(), login, state, p.Login != nil)
		}
	}
	if err != nil {
		return "", fmt.Errorf("open login: %w", err)
	}
	s.setLoginCookie(w, r, login.ID, cookie)
	return target, nil
}

// newLogin makes the login of a request at a provider, and the state by which the provider's answer finds it. leg tells
// the logins of one request apart.
func (s *Server) newLogin(req *tokenstore.AuthRequest, p *upstream.Provider, leg string) (login *tokenstore.Login, state string) {
	state = s.loginState(req, leg)
	now := s.vault.Now()
	return &tokenstore.Login{
		Meta:     tokenstore.Meta{ID: s.vault.Hash(purposeState, state), DeleteAfter: s.loginTidied(now)},
		Request:  *req,
		Provider: p.Name(),
		Identity: p.Identity(),
		Nonce:    oauth2.GenerateVerifier(),
		Verifier: oauth2.GenerateVerifier(),
		Agreed:   now,
		Expires:  now.Add(s.life.Login),
	}, state
}

// loginTidied is when a login may be deleted that was touched just now. The order is that in which logins give way, see openLogins.
func (s *Server) loginTidied(now time.Time) time.Time { return now.Add(s.life.Login + tidyAfter) }

// loginState is the state of a request's login, the same whenever it is asked for.
func (s *Server) loginState(req *tokenstore.AuthRequest, leg string) string {
	return s.vault.Derive(purposeState, req.TransactionID, leg)
}

// beginLogin is where the login goes on. The login is told what that belongs to, and keeps to it when it is begun again. With identify only who the user
// is is asked for.
func (s *Server) beginLogin(ctx context.Context, p *upstream.Provider, login *tokenstore.Login, state string, identify bool) (string, error) {
	begun, err := p.Begin(ctx, upstream.AuthRequest{
		State: state, Nonce: login.Nonce, Verifier: login.Verifier, RedirectURI: s.redirectURI(p), Identify: identify,
		Scopes: scopesToAsk(&login.Request, identify), Binding: login.Binding,
	})
	if err != nil {
		return "", &Error{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable",
			Description: "the login service cannot be reached at the moment; try again", Cause: err}
	}
	login.Binding = begun.Binding
	return begun.URL, nil
}
