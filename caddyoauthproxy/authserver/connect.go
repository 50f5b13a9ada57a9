package authserver

import (
	"crypto/rand"
	"net/http"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// serveConnect is GET /oauth/authorize/{proxy}: a user connects a proxy from the browser, without any chatbot. The page asks
// first, because any link can lead here, and the login ends with a page that says what is connected.
func (s *Server) serveConnect(w http.ResponseWriter, r *http.Request) {
	if isPrefetch(w, r) {
		return
	}
	if err := s.charge(s.limits.authorize, r); err != nil {
		s.problem(w, r, err)
		return
	}
	p, err := s.proxyOf(r)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	asked, err := s.asks(r.Context(), p)
	if err != nil {
		s.notConnected(w, r, err)
		return
	}
	req := &tokenstore.AuthRequest{TransactionID: rand.Text(), ClientID: sessionClient, Flow: tokenstore.FlowConnect, Proxy: p.ID, Resource: p.Resource, Asked: asked, Providers: p.providers()}
	sealed, err := s.sealRequest(req)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	page := console.Connect{
		Action: s.issuer + endpointPath + "/consent", Request: sealed, CSRF: s.csrfToken(s.browser(w, r), req),
		Proxy: p.Name, Resource: p.Resource, Provider: p.Provider.Name(), Login: p.loginName(),
	}
	for _, scope := range asked {
		page.Scopes = append(page.Scopes, console.Scope{Name: scope})
	}
	s.pages.Connect(w, page)
}

// ConnectURL is where a user connects a proxy from the browser; empty where that is switched off, and for a proxy that there is not.
func (s *Server) ConnectURL(proxy string) string {
	if s.proxies[proxy] == nil || !s.sessions {
		return ""
	}
	return s.issuer + connectPath + "/" + proxy
}

// sessionPage describes the page at the end of a login without a client.
func (s *Server) sessionPage(login *tokenstore.Login, data *sessionData) console.Session {
	page := console.Session{
		User: data.UserIdentity, Provider: data.Provider, Token: data.SessionToken, Expires: data.ExpiresAt, Home: s.issuer + homePath,
	}
	if p := s.proxies[login.Request.Proxy]; p != nil {
		page.Proxy, page.Resource = p.Name, p.Resource
	}
	return page
}

// notConnected shows a person why a login without a client has failed.
func (s *Server) notConnected(w http.ResponseWriter, r *http.Request, err error) {
	e := asError(err)
	status := e.Status
	if status == 0 {
		status = http.StatusBadRequest
	}
	e.setRetryAfter(w.Header())
	s.logRefusal(r, e, status)
	s.pages.Problem(w, status, console.Problem{Title: "Not connected", Text: e.Description, Code: e.Code,
		Advice: "Nothing was stored. You can start again.", Home: s.issuer + homePath})
}
