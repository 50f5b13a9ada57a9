package upstream

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxTokens is how long the tokens of an answer can be together.
const maxTokens = 64 << 10

// maxScope is how long the scope of an answer can be.
const maxScope = 16 << 10

// maxLifetime is the longest life of an access token that is believed; what claims more counts as not said.
const maxLifetime = 10 * 365 * 24 * time.Hour

// requestToken makes one request to the token endpoint (RFC 6749 §3.2), never a second one, and only as long as the fence lets it.
func (p *Provider) requestToken(ctx context.Context, m *metadata, c oauthClient, form url.Values, f *fence) (Tokens, error) {
	for name, value := range p.config.TokenParams {
		if !form.Has(name) {
			form.Set(name, value)
		}
	}
	if m.resource != "" && !form.Has("resource") {
		form.Set("resource", m.resource)
	}
	a, err := p.postForm(ctx, m, c, m.TokenEndpoint, form, f)
	if err != nil {
		p.answered(err)
		return Tokens{}, err
	}
	t, err := parseTokens(a, p.now())
	p.answered(err)
	if p.template.mcp {
		t.Binding = p.binding(m, c)
		err = p.clients.judged(ctx, m, c, err)
	}
	return t, err
}

// postForm posts a form with the gateway's authentication as a client. form is changed.
func (p *Provider) postForm(ctx context.Context, m *metadata, c oauthClient, endpoint string, form url.Values, f *fence) (*answer, error) {
	method := cmp.Or(c.method, p.clientAuth(m))
	if method != AuthBasic {
		form.Set("client_id", c.id)
	}
	if method == AuthPost {
		form.Set("client_secret", c.secret)
	}
	body, contentType := []byte(form.Encode()), "application/x-www-form-urlencoded"
	if p.template.jsonRequests {
		var err error
		if body, err = formAsJSON(form); err != nil {
			return nil, &Error{Class: Misconfigured, Err: err}
		}
		contentType = "application/json"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, &Error{Class: Misconfigured, Err: withoutURL(err)}
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", "application/json")
	if method == AuthBasic { // RFC 6749 §2.3.1: both parts form-encoded first
		req.SetBasicAuth(url.QueryEscape(c.id), url.QueryEscape(c.secret))
	}
	f.guard(req)
	return p.do(ctx, req)
}

// formAsJSON writes a form as a JSON object of strings.
func formAsJSON(form url.Values) ([]byte, error) {
	object := make(map[string]string, len(form))
	for name := range form {
		object[name] = form.Get(name)
	}
	return json.Marshal(object)
}

// clientAuth is how the gateway authenticates. Basic is the default of OpenID Connect Discovery §3, unless the
// provider says that it offers only the other one.
func (p *Provider) clientAuth(m *metadata) string {
	if p.authMethod != "" {
		return p.authMethod
	}
	if slices.Contains(m.AuthMethods, AuthBasic) {
		return AuthBasic
	}
	if slices.Contains(m.AuthMethods, AuthPost) {
		return AuthPost
	}
	return AuthBasic
}

// parseTokens judges an answer of a token endpoint. Success is a 2xx status, an access token and no error, all three.
func parseTokens(a *answer, now time.Time) (Tokens, error) {
	fail := func(class Class, code, text string) (Tokens, error) {
		return Tokens{}, &Error{Class: class, Code: code, Status: a.status, RetryAfter: a.retryAfter, Err: errors.New(text)}
	}
	fields, err := parseFields(a)
	if raw := string(fields["error"]); err == nil && raw != "" && raw != "null" && raw != `""` {
		code := fields.text("error") // empty where the provider writes an object or the like
		return fail(errorClass(a.status, code), safeCode(code), "refused")
	}
	switch {
	case a.status < 200 || a.status > 299:
		return fail(statusClass(a.status), "", "no tokens")
	case err != nil:
		return fail(Malformed, "", err.Error())
	}
	t := Tokens{
		AccessToken:  fields.text("access_token"),
		RefreshToken: fields.text("refresh_token"),
		IDToken:      fields.text("id_token"),
		TokenType:    fields.text("token_type"),
		Scopes:       strings.FieldsFunc(fields.text("scope"), func(r rune) bool { return r == ' ' || r == ',' }), // GitHub: commas
		Lifetime:     fields.lifetime("expires_in"),
		answer:       fields,
		date:         a.date,
	}
	switch {
	case t.AccessToken == "":
		return fail(Malformed, "", "neither an access token nor an error")
	case len(t.AccessToken)+len(t.RefreshToken)+len(t.IDToken) > maxTokens:
		return fail(Malformed, "", "the tokens are too long to be sent")
	case len(fields.text("scope")) > maxScope:
		return fail(Malformed, "", fmt.Sprintf("scope is longer than %d bytes", maxScope))
	case !isCredential(t.AccessToken) || !isCredential(t.RefreshToken) || !isCredential(t.IDToken):
		return fail(Malformed, "", "a token holds bytes that no token can")
	case t.TokenType != "" && !strings.EqualFold(t.TokenType, "Bearer") && t.TokenType != "user": // Slack
		return fail(Malformed, "", "the access token is not a bearer token")
	}
	if t.Lifetime > 0 {
		t.Expires = now.Add(t.Lifetime)
	}
	return t, nil
}

// errorClass is what an OAuth error code means. Codes that RFC 6749 does not know mean
// nothing here, so that no provider's invention ends an account.
func errorClass(status int, code string) Class {
	if status == http.StatusTooManyRequests || status >= 500 {
		return statusClass(status)
	}
	switch code {
	case "invalid_grant",
		"bad_refresh_token", "bad_verification_code", // GitHub, with status 200
		"invalid_refresh_token", "token_revoked": // Slack, with status 200
		return Rejected
	case "invalid_client", "unauthorized_client", "invalid_scope", "invalid_request", "unsupported_grant_type",
		"incorrect_client_credentials", "redirect_uri_mismatch", // GitHub
		"invalid_client_id", "bad_client_secret", "bad_redirect_uri": // Slack
		return Misconfigured
	case "slow_down":
		return Throttled
	default:
		return Unreachable
	}
}

// safeCode keeps an error code that looks like one, for people to read.
func safeCode(code string) string {
	if code == "" || len(code) > 64 || strings.Trim(code, idChars+".") != "" {
		return "unreadable"
	}
	return code
}

// isCredential reports whether s can stand in a header: visible ASCII. Empty is fine.
func isCredential(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// fields are the members of an answer, each still as it was written.
type fields map[string]json.RawMessage

// parseFields reads JSON, or the form encoding that some providers use (RFC 6749 §5.1 wants JSON).
func parseFields(a *answer) (fields, error) {
	if body := bytes.TrimSpace(a.body); len(body) > 0 && body[0] == '{' {
		return parseObject(body)
	}
	if a.mediaType != "application/x-www-form-urlencoded" && a.mediaType != "text/plain" {
		return nil, errors.New("answer is neither JSON nor a form")
	}
	form, err := url.ParseQuery(string(a.body))
	if err != nil {
		return nil, errors.New("answer is not a form")
	}
	f := make(fields, len(form))
	for name, values := range form {
		if len(values) != 1 {
			return nil, errors.New("answer repeats a field")
		}
		quoted, err := json.Marshal(values[0])
		if err != nil {
			return nil, errors.New("answer is not a form")
		}
		f[name] = quoted
	}
	return f, nil
}

// parseObject reads one JSON object, names to the letter, and nothing behind it.
func parseObject(body []byte) (fields, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	f := fields{}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("answer is not JSON")
	}
	for d.More() {
		name, err := d.Token()
		key, ok := name.(string)
		if err != nil || !ok {
			return nil, errors.New("answer is not JSON")
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errors.New("answer is not JSON")
		}
		if _, twice := f[key]; twice {
			return nil, errors.New("answer repeats a field")
		}
		f[key] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("answer is not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("answer goes on behind its JSON")
	}
	return f, nil
}

// text is a string member, empty where there is none or it is something else.
func (f fields) text(name string) string {
	var s string
	if json.Unmarshal(f[name], &s) != nil {
		return ""
	}
	return s
}

// at follows a path of member names, apart by dots, to an object. An empty path is the object itself.
func (f fields) at(path string) (fields, bool) {
	if path == "" {
		return f, true
	}
	name, rest, _ := strings.Cut(path, ".")
	inner, err := parseObject(f[name])
	if err != nil {
		return nil, false
	}
	return inner.at(rest)
}

// deep is the string at a path of member names.
func (f fields) deep(path string) string {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return f.text(path)
	}
	inner, ok := f.at(path[:i])
	if !ok {
		return ""
	}
	return inner.text(path[i+1:])
}

// texts is a list of strings, empty where there is none or it is something else.
func (f fields) texts(name string) []string {
	var list []string
	if json.Unmarshal(f[name], &list) != nil {
		return nil
	}
	return list
}

// id is a string or whole-number member as a string.
func (f fields) id(name string) string {
	if s := f.text(name); s != "" {
		return s
	}
	if n, err := strconv.ParseInt(string(f[name]), 10, 64); err == nil {
		return strconv.FormatInt(n, 10)
	}
	return ""
}

// ids is the id that several members make together, apart by spaces; empty where one of them is missing.
func (f fields) ids(names string) string {
	var all []string
	for name := range strings.FieldsSeq(names) {
		id := f.id(name)
		if id == "" {
			return ""
		}
		all = append(all, id)
	}
	return strings.Join(all, "/")
}

// truth is a boolean member, also where it is written as a string or number. Anything else is false.
func (f fields) truth(name string) bool {
	switch string(f[name]) {
	case "true", `"true"`, "1", `"1"`:
		return true
	}
	return false
}

// lifetime is a number of seconds, also where it is written as a string. What is absent, unreadable, not
// positive or absurdly long is zero: not said.
func (f fields) lifetime(name string) time.Duration {
	text := f.text(name)
	if text == "" {
		text = string(f[name])
	}
	s, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || math.IsNaN(s) || s <= 0 || s > maxLifetime.Seconds() {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}
