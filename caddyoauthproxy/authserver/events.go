package authserver

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// clientActor is a client that has shown that it is one.
func clientActor(c *tokenstore.Client) tokenstore.Actor {
	return tokenstore.Actor{Kind: tokenstore.ActorClient, ID: c.ID, Label: c.Name}
}

// userActor is somebody in a browser, by id and label as far as they are known yet.
func userActor(id, label string) tokenstore.Actor {
	return tokenstore.Actor{Kind: tokenstore.ActorUser, ID: id, Label: label}
}

// clientEvent is an event about a client's registration, by the client itself.
func (s *Server) clientEvent(ctx context.Context, eventType string, c *tokenstore.Client) *tokenstore.Event {
	e := s.vault.NewEvent(tokenstore.WithActor(ctx, clientActor(c)), eventType)
	e.ClientID, e.Client, e.Proxy = c.ID, c.Name, c.Proxy
	e.Details = map[string]string{"redirect_uris": strings.Join(c.RedirectURIs, " "), "auth_method": c.AuthMethod}
	return e
}

// orderEvent is an event about a revocation order. The events of the grants that it ends name it.
func (s *Server) orderEvent(ctx context.Context, eventType string, o *tokenstore.RevocationOrder) *tokenstore.Event {
	e := s.vault.NewEvent(ctx, eventType)
	e.UserID, e.ClientID, e.Proxy, e.Provider, e.Reason = o.Filter.UserID, o.Filter.ClientID, o.Filter.Proxy, o.Filter.Provider, o.Reason
	e.Details = map[string]string{"order": o.ID, "by": o.By}
	if o.Filter.All {
		e.Details["all"] = "true"
	}
	if eventType == tokenstore.EventRevocationDone {
		e.Details["ended"], e.Details["unreadable"] = strconv.Itoa(o.Ended), strconv.Itoa(o.Unreadable)
	}
	return e
}

// grantEvent begins an event about a grant.
func (s *Server) grantEvent(ctx context.Context, eventType string, g *tokenstore.Grant) *tokenstore.Event {
	e := s.vault.NewEvent(ctx, eventType)
	e.Grant, e.Account, e.Consent, e.JTI = g.ID, g.AccountID, g.Consent, g.Family.JTI
	e.ClientID, e.Client, e.Proxy = g.ClientID, g.Client, g.Proxy
	e.UserID, e.User = g.UserID, g.User.Label()
	if g.HasUser() {
		e.Provider = g.User.Provider
		if p := s.proxies[g.Proxy]; p != nil {
			e.Provider = p.Provider.Name()
		}
	}
	return e
}

// apiKeyEvent is an event about an API key, which stands in for client, grant and token of the requests that it comes with.
func (s *Server) apiKeyEvent(ctx context.Context, eventType string, k *tokenstore.APIKey) *tokenstore.Event {
	e := s.vault.NewEvent(ctx, eventType)
	e.Grant, e.JTI, e.ClientID, e.Client = k.ID, k.ID, apiKeyClient+k.ID, k.Name
	e.Details = map[string]string{"proxies": strings.Join(k.Proxies, " "), "scopes": strings.Join(k.Scopes, " "), "expires": k.Expires.UTC().Format(time.RFC3339)}
	return e
}

// issued begins the event of a gateway token.
func (s *Server) issued(ctx context.Context, g *tokenstore.Grant, grantType string) *tokenstore.Event {
	e := s.grantEvent(ctx, tokenstore.EventTokenIssued, g)
	e.Details = map[string]string{"grant_type": grantType, "scopes": strings.Join(g.Scopes, " ")}
	return e
}

// ended is the event of a grant that was ended.
func (s *Server) ended(ctx context.Context, g *tokenstore.Grant) *tokenstore.Event {
	eventType := tokenstore.EventGrantEnded
	if g.ClientID == sessionClient {
		eventType = tokenstore.EventSessionEnded
	}
	e := s.grantEvent(ctx, eventType, g)
	e.Reason = g.Reason
	return e
}

// loginEvent begins an event about an authorization request, or the login that came of it. Who the user is, is not known yet.
func (s *Server) loginEvent(ctx context.Context, eventType string, req *tokenstore.AuthRequest) *tokenstore.Event {
	e := s.vault.NewEvent(tokenstore.WithActor(ctx, userActor("", "")), eventType)
	e.ClientID, e.Proxy, e.Consent = req.ClientID, req.Proxy, req.Consent
	e.Details = map[string]string{"flow": string(req.Flow)}
	if p := s.proxies[req.Proxy]; p != nil {
		e.Provider = p.loginProvider().Name()
	}
	return e
}

// consentEvent begins an event about what a user agreed to, or did not.
func (s *Server) consentEvent(ctx context.Context, eventType string, req *tokenstore.AuthRequest, c *tokenstore.Client) *tokenstore.Event {
	e := s.loginEvent(ctx, eventType, req)
	if c != nil {
		e.Client = c.Name
	}
	e.Details["scopes"], e.Details["upstream_scopes"] = strings.Join(req.Scopes, " "), strings.Join(req.Asked, " ")
	e.Details["resource"] = req.Resource
	if u, err := url.Parse(req.RedirectURI); err == nil && req.RedirectURI != "" {
		e.Details["redirect_host"] = cmp.Or(u.Host, u.Scheme+":")
	}
	return e
}

// loginFailed is the event of a login that ended without a grant.
func (s *Server) loginFailed(ctx context.Context, login *tokenstore.Login, code string, cause error) *tokenstore.Event {
	e := s.loginEvent(ctx, tokenstore.EventLoginFailed, &login.Request).Refused(withoutURL(cause).Error())
	e.Provider = login.Provider
	e.Details["login"], e.Details["error"] = login.ID, code
	return e
}

// loginFinished are the events of a login that made a grant; of one without a client, the session token's as well, which the callback hands out.
func (s *Server) loginFinished(ctx context.Context, login *tokenstore.Login, g *tokenstore.Grant) []*tokenstore.Event {
	ctx = tokenstore.WithActor(ctx, userActor(g.UserID, g.User.Label()))
	e := s.grantEvent(ctx, tokenstore.EventLoginFinished, g)
	e.Provider, e.JTI = login.Provider, ""
	e.Details = map[string]string{"login": login.ID, "flow": string(login.Request.Flow)}
	if login.Request.Flow == "" {
		return []*tokenstore.Event{e}
	}
	return []*tokenstore.Event{e, s.grantEvent(ctx, tokenstore.EventSessionIssued, g)}
}

// grantError is an error that concerns a grant.
type grantError struct {
	error
	grant *tokenstore.Grant
}

func (e *grantError) Unwrap() error { return e.error }

// tokenRefused notes that the token endpoint refused a client, nil for one that did not show that it is one. It reports false for what is no refusal, but
// a limit or a fault of the gateway.
func (s *Server) tokenRefused(r *http.Request, c *tokenstore.Client, grantType string, err error) bool {
	refusal := asError(err)
	if refusal.Status >= http.StatusInternalServerError || refusal.Status == http.StatusTooManyRequests {
		return false
	}
	ctx := tokenstore.WithActor(r.Context(), tokenstore.Actor{Kind: tokenstore.ActorClient})
	e := s.vault.NewEvent(ctx, tokenstore.EventTokenRefused)
	if about, ok := errors.AsType[*grantError](err); ok {
		e = s.grantEvent(ctx, tokenstore.EventTokenRefused, about.grant)
		e.JTI = "" // none was issued
	}
	if c != nil {
		e.Actor, e.ClientID, e.Client = clientActor(c), c.ID, c.Name
	}
	e.Refused(refusal.Description)
	if refusal.Cause != nil {
		e.Reason += ": " + withoutURL(refusal.Cause).Error()
	}
	e.Details = map[string]string{"error": refusal.Code}
	for _, known := range []string{grantCode, grantRefresh, grantMachine} {
		if grantType == known {
			e.Details["grant_type"] = known
		}
	}
	s.vault.Note(e)
	return true
}
