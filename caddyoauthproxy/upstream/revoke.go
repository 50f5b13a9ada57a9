package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// Revoke ends tokens at the provider (RFC 7009), the refresh token first. It does nothing and
// returns nil where the provider offers no way.
func (p *Provider) Revoke(ctx context.Context, t Tokens) error {
	if p.template.githubToken != "" {
		return p.revokeGitHub(ctx, t)
	}
	m, c, err := p.bound(ctx, t.Binding)
	if err != nil {
		return p.fail("revoke", err)
	}
	if m.RevocationEndpoint == "" {
		return nil
	}
	if t.RefreshToken != "" {
		if err := p.revokeToken(ctx, m, c, "refresh_token", t.RefreshToken); err != nil {
			return p.fail("revoke refresh token", err)
		}
	}
	if t.AccessToken == "" {
		return nil
	}
	err = p.revokeToken(ctx, m, c, "access_token", t.AccessToken)
	var e *Error
	if errors.As(err, &e) && t.RefreshToken != "" && e.Status >= 400 && e.Status < 500 && e.Class != Throttled {
		return nil // gone with the refresh token, or of a kind that the provider does not revoke (RFC 7009 §2.1)
	}
	if err != nil {
		return p.fail("revoke access token", err)
	}
	return nil
}

func (p *Provider) revokeToken(ctx context.Context, m *metadata, c oauthClient, kind, token string) error {
	a, err := p.postForm(ctx, m, c, m.RevocationEndpoint, url.Values{"token": {token}, "token_type_hint": {kind}}, nil)
	if err != nil {
		return err
	}
	return a.refusal()
}

// refusal is nil for a 2xx answer.
func (a *answer) refusal() error {
	if a.status >= 200 && a.status <= 299 {
		return nil
	}
	e := &Error{Class: statusClass(a.status), Status: a.status, RetryAfter: a.retryAfter, Err: errors.New("refused")}
	if f, err := parseFields(a); err == nil && f.text("error") != "" {
		e.Class, e.Code = errorClass(a.status, f.text("error")), safeCode(f.text("error"))
	}
	return e
}

// revokeGitHub deletes the access token. GitHub can also delete the user's whole authorization of the app, but that
// takes all tokens of that user with it, those of other gateways with the same app too: only where the operator wants it, and with the last account.
func (p *Provider) revokeGitHub(ctx context.Context, t Tokens) error {
	if t.AccessToken == "" || p.authMethod == AuthNone {
		return nil
	}
	body, err := json.Marshal(map[string]string{"access_token": t.AccessToken})
	if err != nil {
		return p.fail("revoke", err)
	}
	address := p.template.githubToken
	if t.last && p.config.RevokeGrant {
		address = p.template.githubGrant
	}
	address = strings.Replace(address, "{client_id}", url.PathEscape(p.config.ClientID), 1)
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, address, bytes.NewReader(body))
	if err != nil {
		return p.fail("revoke", withoutURL(err))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/vnd.github+json")
	req.SetBasicAuth(p.config.ClientID, p.config.ClientSecret)
	a, err := p.do(ctx, req)
	gone := err == nil && (a.status == http.StatusNotFound || a.status == http.StatusUnprocessableEntity)
	if gone && t.RefreshToken == "" {
		return nil
	}
	if gone {
		err = &Error{Class: Malformed, Status: a.status, Err: errAccessTokenGone}
	} else if err == nil {
		err = a.refusal()
	}
	if err != nil {
		return p.fail("revoke", err)
	}
	return nil
}

// errAccessTokenGone says that the access token has ended already, and the refresh token of a GitHub App may live on: GitHub ends it only with an access
// token that is good.
var errAccessTokenGone = errors.New("the access token has ended before")
