package authserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Users and operators sign in to the gateway's own pages at a provider, in the way in which users log in for a chatbot: bound to the browser, through the
// same callback. Nothing comes of it but a record of who is at that browser. No grant is made, and the provider's tokens are dropped.

// signInCookie is the cookie of a browser in which somebody is signed in.
const signInCookie = "oauth_proxy_signin"

// signInClient is what stands for the client in what the log says about a sign-in. No client can have it.
const signInClient = "(sign-in)"

// Admins are who may operate the gateway in a browser.
type Admins struct {
	// Provider is where they sign in. It must be one that says who a user is.
	Provider *upstream.Provider

	// Allow names them. One that names nobody in particular is refused: it would let everybody in.
	Allow Policy
}

// check refuses what would let in people whom nobody has named.
func (a *Admins) check() error {
	switch {
	case a == nil:
		return nil
	case a.Provider == nil || a.Provider.Anonymous():
		return errors.New("admin: the provider does not say who a user is")
	case a.Allow.Everybody():
		return errors.New("admin: an admin page that anybody may open is no admin page: name who may")
	}
	return nil
}

// permits reports whether a user is an operator now. It is asked on every request.
func (a *Admins) permits(u tokenstore.User) bool {
	return a != nil && !a.Allow.Everybody() && u.Provider == a.Provider.Name() && a.Allow.Permits(u)
}

// signInProviders are the providers where people can sign in: those at which users of some proxy log in, and that of the operators. One that does not say
// who a user is is not among them.
func (s *Server) signInProviders() []*upstream.Provider {
	var found []*upstream.Provider
	add := func(p *upstream.Provider) {
		if p != nil && !p.Anonymous() && !slices.ContainsFunc(found, func(have *upstream.Provider) bool { return have.Name() == p.Name() }) {
			found = append(found, p)
		}
	}
	if s.admins != nil {
		add(s.admins.Provider)
	}
	if s.connections {
		for _, p := range s.order {
			add(p.loginProvider())
		}
	}
	slices.SortFunc(found, func(a, b *upstream.Provider) int { return cmp.Compare(a.Name(), b.Name()) })
	return found
}

// signInProvider finds one of them, nil for any other.
func (s *Server) signInProvider(name string) *upstream.Provider {
	for _, p := range s.signInProviders() {
		if p.Name() == name {
			return p
		}
	}
	return nil
}

// maySignIn reports whether there is anything for a user to see. Where users have no page of their own, there is only for operators.
func (s *Server) maySignIn(u tokenstore.User) bool { return s.connections || s.admins.permits(u) }

// Paths of the pages that need a sign-in, below the issuer's path.
const (
	connectionsPath = "/connections"
	adminPath       = "/admin"
)

// SignInURL is where somebody signs in who then goes on to a page of the gateway's, such as /connections.
func (s *Server) SignInURL(returnTo string) string {
	return s.issuer + signInPath + "?" + url.Values{"return_to": {returnTo}}.Encode()
}

// startPage is where a sign-in leads to that names no page.
func (s *Server) startPage() string {
	if s.connections {
		return connectionsPath
	}
	return adminPath + "/"
}

// returnTo checks where a sign-in is to lead to: a path below the issuer's, of one of the pages that need a sign-in. Everything that a browser
// could read as another host is refused, though the issuer goes in front of it in any case.
func (s *Server) returnTo(text string) (string, error) {
	if text == "" {
		return s.startPage(), nil
	}
	refused := refuse("invalid_request", "return_to must be a page of this gateway that needs a sign-in, such as /connections")
	if len(text) > maxMetadataString || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\\' || r == '#' }) {
		return "", refused
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" || strings.Contains(u.Path, "//") || strings.ContainsAny(u.Path, "\\\x00\r\n") {
		return "", refused
	}
	clean := path.Clean(u.Path)
	if strings.TrimSuffix(u.Path, "/") != strings.TrimSuffix(clean, "/") {
		return "", refused
	}
	for _, page := range []string{connectionsPath, adminPath} {
		if clean == page || strings.HasPrefix(clean, page+"/") {
			return text, nil
		}
	}
	return "", refused
}

// serveSignIn is GET /oauth/signin: it begins a login at the provider that the parameter provider names, or the only one. With several, and none named,
// it asks at which. return_to is the page to go on to.
func (s *Server) serveSignIn(w http.ResponseWriter, r *http.Request) {
	if isPrefetch(w, r) {
		return
	}
	q := r.URL.Query()
	returnTo, err := s.returnTo(q.Get("return_to"))
	if err == nil && noRepeats(q) != nil {
		err = noRepeats(q)
	}
	// What only looks like a visit begins nothing: images, frames and scripts of other pages can name this address.
	if dest := r.Header.Get("Sec-Fetch-Dest"); err == nil && dest != "" && dest != "document" {
		err = &Error{Status: http.StatusForbidden, Code: "access_denied", Description: "Open this page by itself to sign in."}
	}
	if err != nil {
		s.notSignedIn(w, r, err)
		return
	}
	name, offered := q.Get("provider"), s.signInProviders()
	if name == "" && len(offered) > 1 {
		s.chooseProvider(w, r, returnTo, offered)
		return
	}
	if name == "" && len(offered) == 1 {
		name = offered[0].Name()
	}
	provider := s.signInProvider(name)
	if provider == nil {
		s.notSignedIn(w, r, &Error{Status: http.StatusNotFound, Code: "unknown_provider", Description: "This gateway has no login service of this name for its own pages."})
		return
	}
	target, err := s.openSignIn(w, r, provider, returnTo)
	if err != nil {
		s.notSignedIn(w, r, err)
		return
	}
	w.Header().Set("Location", target)
	w.WriteHeader(http.StatusSeeOther)
}

// chooseProvider asks where to sign in.
func (s *Server) chooseProvider(w http.ResponseWriter, r *http.Request, returnTo string, offered []*upstream.Provider) {
	if err := s.charge(s.limits.authorize, r); err != nil {
		s.notSignedIn(w, r, err)
		return
	}
	page := console.SignIn{Title: "Sign in", Text: "Choose where you have your account.", Home: s.issuer + homePath}
	for _, p := range offered {
		page.Choices = append(page.Choices, console.Choice{Text: p.Name(), URL: s.SignInURL(returnTo) + "&" + url.Values{"provider": {p.Name()}}.Encode()})
	}
	s.pages.SignIn(w, page)
}

// openSignIn stores the login and gives the provider's URL. A sign-in asks only who the user is.
func (s *Server) openSignIn(w http.ResponseWriter, r *http.Request, provider *upstream.Provider, returnTo string) (string, error) {
	if err := s.charge(s.limits.login, r); err != nil {
		return "", err
	}
	login, state := s.newLogin(&tokenstore.AuthRequest{
		TransactionID: rand.Text(), ClientID: signInClient, Flow: tokenstore.FlowSignIn, ReturnTo: returnTo, Address: s.clientIP(r),
	}, provider, "")
	cookie := rand.Text()
	login.Browser = s.vault.Hash(purposeBrowser, cookie)
	target, err := s.beginLogin(r.Context(), provider, login, state, true)
	if err != nil {
		return "", err
	}
	if err := s.makeRoomForLogin(r.Context()); err != nil {
		return "", err
	}
	if err := s.vault.Commit(r.Context(), tokenstore.Save(login)); err != nil {
		return "", fmt.Errorf("open login: %w", err)
	}
	s.setLoginCookie(w, r, login.ID, cookie)
	return target, nil
}

// signInValue is the cookie that a finished sign-in gives its browser. It is made from the state, which is used once and known to few, with a key that
// only the gateway has; so a callback that the browser delivers twice gives one cookie.
func (s *Server) signInValue(state string) string { return s.vault.Derive(purposeSignIn, state) }

// storeSignIn makes a sign-in durable together with the end of its login.
func (s *Server) storeSignIn(ctx context.Context, f *flight, login *tokenstore.Login, provider *upstream.Provider, t upstream.Tokens, u tokenstore.User, state string) error {
	now := s.vault.Now()
	signIn := &tokenstore.SignIn{
		Meta:   tokenstore.Meta{ID: s.vault.Hash(purposeSignIn, s.signInValue(state)), DeleteAfter: now.Add(s.life.SignIn + tidyAfter)},
		UserID: s.userID(u), User: u, Identity: provider.Identity(), Created: now, Expires: now.Add(s.life.SignIn), Address: login.Request.Address,
	}
	who := userActor(signIn.UserID, u.Label())
	event := s.signInEvent(tokenstore.WithActor(ctx, who), tokenstore.EventSignInFinished, signIn)
	err := s.settle(ctx, f, login, func(context.Context) ([]tokenstore.Write, error) {
		return []tokenstore.Write{tokenstore.Save(signIn), tokenstore.Save(login), tokenstore.RecordEvent(event)}, nil
	})
	if err != nil {
		return fmt.Errorf("store sign-in: %w", err)
	}
	s.forgetTokens(ctx, provider, t, u)
	return nil
}

// forgetTokens ends the tokens of a sign-in at the provider, unless that could end more: some providers take every token that the gateway has of a
// user for one authorization, and the user's chatbots would lose theirs. There the tokens are only forgotten. They end soon by themselves, and
// no refresh token was asked for.
func (s *Server) forgetTokens(ctx context.Context, provider *upstream.Provider, t upstream.Tokens, u tokenstore.User) {
	if !provider.RevokesTokensAlone() {
		owner := &tokenstore.Account{Provider: provider.Name(), UserID: s.userID(u), OwnerID: s.vault.Derive(purposeOwner, provider.ClientID(), u.Issuer, u.Subject)}
		has, err := s.vault.OwnerHasAccount(ctx, owner)
		if err != nil {
			s.log.Warn("tokens of a sign-in are not revoked: the vault does not say whether the user has others", zap.String("provider", provider.Name()), zap.Error(err))
			return
		}
		if has {
			return
		}
	}
	s.dropTokens(ctx, provider, t)
}

// answerSignIn ends a sign-in's callback: the browser gets its cookie, and goes on to the page. Who was signed in before with this browser is no
// longer.
func (s *Server) answerSignIn(w http.ResponseWriter, r *http.Request, login *tokenstore.Login, state string) {
	if login.Error != "" {
		code, text := loginError(login)
		e := refuse(code, text)
		if code == "access_denied" {
			e.Status = http.StatusForbidden
		}
		s.notSignedIn(w, r, e)
		return
	}
	value := s.signInValue(state)
	if old := s.cookie(r, signInCookie); old != "" && old != value {
		if err := s.replaceSignIn(r.Context(), old, value); err != nil && asError(err).Status != http.StatusNotFound {
			s.notSignedIn(w, r, err)
			return
		}
	}
	returnTo, err := s.returnTo(login.Request.ReturnTo)
	if err != nil {
		returnTo = s.startPage()
	}
	s.setCookie(w, signInCookie, value, s.life.SignIn)
	w.Header().Set("Location", s.issuer+returnTo)
	w.WriteHeader(http.StatusSeeOther)
}

// replaceSignIn ends the sign-in that a browser had before, for whoever is signed in with it now.
func (s *Server) replaceSignIn(ctx context.Context, old, value string) error {
	now, err := s.vault.SignIn(ctx, s.vault.Hash(purposeSignIn, value))
	switch {
	case err == nil:
		ctx = tokenstore.WithActor(ctx, userActor(now.UserID, now.User.Label()))
	case !errors.Is(err, tokenstore.ErrNotFound): // which was ended just now
		return fmt.Errorf("sign-in: %w", err)
	}
	return s.EndSignIn(ctx, s.vault.Hash(purposeSignIn, old))
}

// notSignedIn shows a person why a sign-in has failed, and the way back.
func (s *Server) notSignedIn(w http.ResponseWriter, r *http.Request, err error) {
	e := asError(err)
	status := cmp.Or(e.Status, http.StatusBadRequest)
	e.setRetryAfter(w.Header())
	s.logRefusal(r, e, status)
	s.pages.Problem(w, status, console.Problem{Title: "Not signed in", Text: e.Description, Code: e.Code, Home: s.issuer + homePath,
		Retry: s.SignInURL(s.startPage()), RetryText: "Sign in again"})
}

// signOut ends the sign-in of the browser. One that has ended before is no error.
func (s *Server) signOut(w http.ResponseWriter, r *http.Request) error {
	signIn, err := s.SignedIn(r)
	if errors.Is(err, ErrNotSignedIn) {
		if err := s.csrf.Check(r); err != nil {
			return errForeignForm(err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := s.ReadForm(w, r, signIn); err != nil {
		return err
	}
	if err := s.EndSignIn(asUser(r.Context(), signIn), signIn.ID); err != nil && asError(err).Status != http.StatusNotFound {
		return err
	}
	return nil
}

// serveSignOut is POST /oauth/signout, from the form on each signed-in page.
func (s *Server) serveSignOut(w http.ResponseWriter, r *http.Request) {
	if err := s.signOut(w, r); err != nil {
		s.notSignedIn(w, r, err)
		return
	}
	s.SignedOut(w, "You are signed out", "You may still be logged in at your login service: whoever uses this browser next can then sign in here as you.")
}

// SignedOut takes the cookie of a sign-in that has ended from its browser, and shows a page that says so.
func (s *Server) SignedOut(w http.ResponseWriter, title, text string) {
	s.dropCookie(w, signInCookie)
	s.pages.SignIn(w, console.SignIn{
		Title: title, Text: text,
		Choices: []console.Choice{{Text: "Sign in again", URL: s.SignInURL(s.startPage())}}, Home: s.issuer + homePath,
	})
}
