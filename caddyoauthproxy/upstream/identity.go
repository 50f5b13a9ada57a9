package upstream

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// idTokenLeeway is by how much the provider's clock may be behind.
const idTokenLeeway = 30 * time.Second

// identify finds out whose the tokens are. Only tokens that came straight from the token endpoint get here.
func (p *Provider) identify(ctx context.Context, m *metadata, t Tokens, nonce string) (tokenstore.User, error) {
	if p.template.mcp { // it does not say: whoever could log in there
		return tokenstore.User{Provider: p.name, Issuer: m.Issuer, Subject: "anonymous-" + rand.Text(), Name: "somebody"}, nil
	}
	if !p.template.oidc {
		f, err := p.plainUser(ctx, m, t)
		if err != nil {
			return tokenstore.User{}, p.fail("userinfo", err)
		}
		user, err := p.user(f, p.userinfoIssuer(m))
		if err != nil {
			return tokenstore.User{}, p.fail("userinfo", err)
		}
		return user, nil
	}
	claims, issuer, err := p.verifyIDToken(ctx, m, t, nonce)
	if err != nil {
		return tokenstore.User{}, p.fail("ID token", err)
	}
	user, err := p.user(claims, issuer)
	if err != nil {
		return tokenstore.User{}, p.fail("ID token", err)
	}
	if user.Email == "" && m.UserinfoEndpoint != "" && !p.template.entra {
		if err := p.complete(ctx, m, t.AccessToken, claims.text("sub"), &user); err != nil {
			return tokenstore.User{}, p.fail("userinfo", err)
		}
	}
	return user, nil
}

// verifyIDToken checks an ID token (OpenID Connect Core §3.1.3.7) and returns its claims and issuer.
func (p *Provider) verifyIDToken(ctx context.Context, m *metadata, t Tokens, nonce string) (fields, string, error) {
	malformed := func(format string, args ...any) (fields, string, error) {
		return nil, "", &Error{Class: Malformed, Err: fmt.Errorf(format, args...)}
	}
	if t.IDToken == "" {
		return malformed("there is none in the answer: does the provider grant the scope openid to the gateway's client?")
	}
	keys := &verifyingKeys{provider: p, algorithms: m.Algorithms}
	verifier := oidc.NewVerifier(m.Issuer, keys, &oidc.Config{
		ClientID:             p.config.ClientID,
		SupportedSigningAlgs: m.Algorithms,
		SkipIssuerCheck:      p.template.entra, // judged below: it may hold the user's directory
		Now:                  func() time.Time { return p.now().Add(-idTokenLeeway) },
	})
	token, err := verifier.Verify(ctx, t.IDToken)
	if keys.err != nil {
		return nil, "", keys.err
	}
	if skew := t.date.Sub(p.now()); err != nil && !t.date.IsZero() && skew.Abs() > idTokenLeeway && isAboutTime(err) {
		return nil, "", &Error{Class: Clock, Err: fmt.Errorf("the provider's clock and this machine's are %s apart, so that it is not valid yet, or no more: set the clock", skew.Abs().Round(time.Second))}
	}
	if err != nil {
		return malformed("does not verify: %w", err)
	}
	f, err := payload(token)
	if err != nil {
		return malformed("%w", err)
	}
	switch azp := f.text("azp"); {
	case p.template.entra && (!p.isIssuer(m, token.Issuer) || !isGUID(f.text("tid")) || !strings.HasSuffix(token.Issuer, "/"+f.text("tid")+"/v2.0")):
		return malformed("iss is not the provider's issuer for the directory in tid")
	case azp != "" && azp != p.config.ClientID, azp == "" && len(token.Audience) > 1:
		return malformed("it was issued to another client")
	case nonce == "" || subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(nonce)) != 1:
		return malformed("nonce is not that of this login")
	case token.AccessTokenHash != "" && token.VerifyAccessToken(t.AccessToken) != nil:
		return malformed("it belongs to another access token")
	}
	if p.template.entra {
		return f, token.Issuer, nil
	}
	return f, m.Issuer, nil
}

// isAboutTime reports whether a token was refused for its exp or nbf. For the latter go-oidc has words alone.
func isAboutTime(err error) bool {
	var expired *oidc.TokenExpiredError
	return errors.As(err, &expired) || strings.Contains(err.Error(), "nbf")
}

// payload returns the claims of a verified token, to the letter of their names.
func payload(token *oidc.IDToken) (fields, error) {
	var raw json.RawMessage
	if err := token.Claims(&raw); err != nil {
		return nil, errors.New("claims are not JSON")
	}
	return parseObject(raw)
}

// plainUser finds the user of a provider without ID tokens: in its token answer, or where it tells by the access token.
func (p *Provider) plainUser(ctx context.Context, m *metadata, t Tokens) (fields, error) {
	f := t.answer
	if m.UserinfoEndpoint != "" {
		var err error
		if f, err = p.userinfo(ctx, m, t.AccessToken); err != nil {
			return nil, err
		}
	}
	if string(f["ok"]) == "false" { // Slack, with status 200
		return nil, &Error{Class: Malformed, Code: safeCode(f.text("error")), Err: errors.New("refused")}
	}
	user, ok := f.at(p.template.userPath)
	if !ok {
		return nil, &Error{Class: Malformed, Err: fmt.Errorf("%s is missing, which says who the user is", p.template.userPath)}
	}
	return user, nil
}

// userinfo asks the provider who the access token's user is.
func (p *Provider) userinfo(ctx context.Context, m *metadata, accessToken string) (fields, error) {
	body, err := p.askUser(ctx, m, accessToken)
	if err != nil {
		return nil, err
	}
	f, err := parseObject(body)
	if err != nil {
		return nil, &Error{Class: Malformed, Err: err}
	}
	return f, nil
}

func (p *Provider) askUser(ctx context.Context, m *metadata, accessToken string) ([]byte, error) {
	if p.template.userinfoQuery == "" {
		return p.getJSON(ctx, m.UserinfoEndpoint, accessToken)
	}
	query, err := json.Marshal(map[string]string{"query": p.template.userinfoQuery})
	if err != nil {
		return nil, &Error{Class: Misconfigured, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.UserinfoEndpoint, bytes.NewReader(query))
	if err != nil {
		return nil, &Error{Class: Misconfigured, Err: withoutURL(err)}
	}
	req.Header.Set("Content-Type", "application/json")
	return p.readJSON(ctx, req, accessToken)
}

// complete asks userinfo for what a short ID token leaves out, as OpenID Connect Core §5.4 has it: the e-mail address above all, and with
// it names, groups and organisation. A provider that will not tell leaves the user without; one that cannot be reached is an error,
// because an allow list may depend on it.
func (p *Provider) complete(ctx context.Context, m *metadata, accessToken, subject string, user *tokenstore.User) error {
	f, err := p.userinfo(ctx, m, accessToken)
	var e *Error
	if errors.As(err, &e) && (e.Class == Throttled || e.Status == 0 || e.Status >= 500) {
		return err
	}
	if err != nil || f.text("sub") != subject { // OpenID Connect Core §5.3.2: of another subject means not to be used
		return nil //nolint:nilerr // the login stands without it
	}
	told, err := p.user(f, user.Issuer)
	if err != nil {
		return err
	}
	user.Email, user.EmailVerified = told.Email, told.EmailVerified
	user.Login, user.Name, user.Org = cmp.Or(user.Login, told.Login), cmp.Or(user.Name, told.Name), cmp.Or(user.Org, told.Org)
	if len(user.Groups) == 0 {
		user.Groups = told.Groups
	}
	return nil
}

// userinfoIssuer is the issuer of users of a provider without ID tokens: its issuer, or else where userinfo comes from.
func (p *Provider) userinfoIssuer(m *metadata) string {
	if m.Issuer != "" {
		return m.Issuer
	}
	u, err := url.Parse(m.UserinfoEndpoint)
	if err != nil {
		return m.UserinfoEndpoint
	}
	return u.Scheme + "://" + u.Host
}

// user reads who it is. Only issuer and subject identify; the rest is for people and for allow lists.
func (p *Provider) user(f fields, issuer string) (tokenstore.User, error) {
	subject := "sub"
	for _, s := range []string{p.template.subject, p.config.SubjectField} {
		if s != "" {
			subject = s
		}
	}
	login := p.template.login
	if login == "" {
		login = "preferred_username"
	}
	u := tokenstore.User{
		Provider: p.name,
		Issuer:   issuer,
		Subject:  f.ids(subject),
		Login:    f.text(login),
		Name:     f.text("name"),
		Groups:   f.texts(cmp.Or(p.template.groups, "groups")),
		Org:      f.deep(p.template.org),
	}
	if u.Subject == "" {
		return tokenstore.User{}, &Error{Class: Malformed, Err: fmt.Errorf("%s is missing, which identifies the user", subject)}
	}
	u.Email, u.EmailVerified = p.email(f)
	if err := checkSize(&u); err != nil {
		return tokenstore.User{}, &Error{Class: Malformed, Err: err}
	}
	return u, nil
}

const (
	// maxUserText is how long each text about a user can be.
	maxUserText = 1 << 10

	// maxGroups is how long the names of all groups of a user can be together.
	maxGroups = 64 << 10
)

// checkSize refuses what is too long to be kept with every grant. A part of the groups would be no less wrong: rules may depend on the rest.
func checkSize(u *tokenstore.User) error {
	for _, of := range []struct{ name, text string }{{"subject", u.Subject}, {"login name", u.Login}, {"name", u.Name}, {"e-mail address", u.Email}, {"organisation", u.Org}} {
		if len(of.text) > maxUserText {
			return fmt.Errorf("the user's %s is longer than %d bytes", of.name, maxUserText)
		}
	}
	size := 0
	for _, group := range u.Groups {
		size += len(group)
	}
	if size > maxGroups {
		return fmt.Errorf("the names of the user's %d groups are longer than %d bytes together: have the provider tell only those that the gateway needs", len(u.Groups), maxGroups)
	}
	return nil
}

// email returns the e-mail address, and whether the provider vouches for it. What is not one plain address is none.
func (p *Provider) email(f fields) (string, bool) {
	email := f.deep(cmp.Or(p.template.email, "email"))
	local, domain, ok := strings.Cut(email, "@")
	if !ok || local == "" || domain == "" || strings.Contains(domain, "@") || !isCredential(email) {
		return "", false
	}
	return email, f.truth("email_verified") || p.template.entra && f.truth("xms_edov")
}
