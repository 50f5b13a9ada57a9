package operator

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
)

// Pages for people who are signed in. A form only asks for a page that asks again; what that one posts is done, and the browser is sent on, so that
// nothing is done twice.

// mountPages fills the mux of the pages.
func (s *Server) mountPages() {
	s.pages = http.NewServeMux()
	if s.options.NoConnections || s.options.Pages == nil {
		return
	}
	s.page("GET "+connectionsPath, s.showConnections)
	s.page("GET "+cutPath, s.askCut)
	s.page("POST "+cutPath, s.cut)
}

// handlesPage reports whether the path is that of a page, whatever the method.
func (s *Server) handlesPage(r *http.Request) bool {
	_, pattern := s.pages.Handler(r)
	if pattern == "" && r.Method != http.MethodGet {
		get := r.Clone(r.Context())
		get.Method = http.MethodGet
		_, pattern = s.pages.Handler(get)
	}
	return pattern != ""
}

// page mounts a page that needs a sign-in, below the issuer's path. What it returns as an error is shown as a page.
func (s *Server) page(pattern string, h func(http.ResponseWriter, *http.Request, *authserver.SignIn) error) {
	method, path, _ := strings.Cut(pattern, " ")
	s.pages.HandleFunc(method+" "+s.base+path, func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("X-Frame-Options", "DENY")
		ctx, cancel := context.WithTimeout(r.Context(), requestTime)
		defer cancel()
		r = r.WithContext(ctx)
		signIn, err := s.signedIn(r)
		switch {
		case errors.Is(err, authserver.ErrNotSignedIn) && (r.Method == http.MethodGet || r.Method == http.MethodHead):
			header.Set("Location", s.options.Gateway.SignInURL(strings.TrimPrefix(r.URL.RequestURI(), s.base)))
			w.WriteHeader(http.StatusSeeOther)
			return
		case err == nil:
			err = h(w, r, signIn)
		}
		if err != nil {
			s.pageProblem(w, r, signIn, err)
		}
	})
}

// signedIn is who is signed in, at the gateway's own host: a name that was made to point here is another one's.
func (s *Server) signedIn(r *http.Request) (*authserver.SignIn, error) {
	if !sameHost(s.options.Issuer, r.Host) {
		return nil, denied(http.StatusForbidden, "access_denied", "This host is not the gateway's own. Open "+s.options.Issuer.Host+" instead.")
	}
	return s.options.SignedIn(r)
}

// frame is what surrounds a page of somebody who is signed in.
func (s *Server) frame(signIn *authserver.SignIn) console.Frame {
	return console.Frame{
		Base: strings.TrimSuffix(s.options.Issuer.String(), "/"), User: signIn.User.Label(), Provider: signIn.User.Provider, Admin: signIn.Admin,
		NoConnections: s.options.NoConnections, CSRF: signIn.CSRF,
	}
}

// pageProblem shows what went wrong. What is not the user's mistake only the log gets the cause of.
func (s *Server) pageProblem(w http.ResponseWriter, r *http.Request, signIn *authserver.SignIn, err error) {
	p := console.Problem{Title: "The gateway is in trouble", Text: "It met an unexpected fault.", Code: "server_error",
		Advice: "Try again in a minute; if it stays, tell the people who run this gateway.", Retry: s.issuer() + connectionsPath, RetryText: "Back to your connections"}
	status := http.StatusInternalServerError
	e, known := errors.AsType[*authserver.Error](err)
	switch {
	case errors.Is(err, authserver.ErrNotSignedIn):
		status = http.StatusUnauthorized
		p = console.Problem{Title: "You are not signed in any more", Text: "Nothing was done.", Code: "login_required", Retry: s.options.Gateway.SignInURL(connectionsPath), RetryText: "Sign in again"}
	case known:
		status = cmp.Or(e.Status, http.StatusBadRequest)
		p.Title, p.Text, p.Code, p.Advice = "This cannot be done", e.Description, e.Code, ""
	case authserver.VaultFault(err):
		status = http.StatusServiceUnavailable
		p.Text, p.Code = "It cannot reach its vault at the moment.", "temporarily_unavailable"
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2")
	}
	if status == http.StatusNotFound {
		p.Title, p.Text = "Not here", "There is no such connection of yours. It may have ended already."
	}
	level := zap.InfoLevel
	if status >= 500 {
		level = zap.ErrorLevel
	}
	s.log.Log(level, "page refused", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Int("status", status), zap.String("error", p.Code), zap.NamedError("cause", err))
	if signIn == nil {
		s.options.Pages.Problem(w, status, p)
		return
	}
	s.options.Pages.FramedProblem(w, status, s.frame(signIn), p)
}

// issuer is the gateway's issuer, which links begin with.
func (s *Server) issuer() string { return strings.TrimSuffix(s.options.Issuer.String(), "/") }
