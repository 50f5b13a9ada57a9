package operator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// unwritable says why a value cannot stand in a Caddyfile, which has no escapes but \" between quotes, and replaces {$NAME} before it reads
// anything. Where lines are allowed, each of them is judged.
func unwritable(v string, lines bool) string {
	if lines {
		v = strings.NewReplacer("\r\n", " ", "\n", " ").Replace(v)
	}
	const most = 2000
	switch {
	case len(v) > most:
		return fmt.Sprintf("has more than %d bytes", most)
	case !utf8.ValidString(v) || strings.ContainsFunc(v, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }):
		return "has line breaks, or control characters that nobody sees: write it in one line, without them"
	case strings.Contains(v, "{$"):
		return "has {$ in it, which a Caddyfile replaces by an environment variable before it reads anything: write {env.NAME}"
	}
	for _, word := range append(strings.Fields(v), v) {
		if _, ok := quoted(word); !ok {
			return "has quotes, backticks, backslashes or braces in a way that a Caddyfile cannot say: leave them out"
		}
	}
	return ""
}

var (
	bareWord        = regexp.MustCompile(`^[A-Za-z0-9._:/@%+=,~?&;!*()|^-]+$`)
	barePlaceholder = regexp.MustCompile(`^\{(env|file)\.[A-Za-z0-9._:/@%+=,~-]+\}$`)
	loneBackslash   = regexp.MustCompile(`(^|[^\\])(\\\\)*\\("|$)`)
)

// quoted writes a value as one token of a Caddyfile.
func quoted(v string) (token string, ok bool) {
	switch {
	case bareWord.MatchString(v) || barePlaceholder.MatchString(v):
		return v, true
	case v == "{" || v == "}" || strings.Contains(v, "{$") || strings.HasPrefix(v, "{block") || strings.HasPrefix(v, "{args"):
		return "", false
	case !loneBackslash.MatchString(v) && !strings.Contains(v, "`"):
		return `"` + strings.ReplaceAll(v, `"`, `\"`) + `"`, true
	}
	return "", false
}

// lines writes lines of a Caddyfile as `caddy fmt` would.
type lines struct {
	b     strings.Builder
	depth int
}

func (l *lines) line(words ...string) {
	l.b.WriteString(strings.Repeat("\t", l.depth))
	for i, word := range words {
		if i > 0 {
			l.b.WriteByte(' ')
		}
		token, _ := quoted(word) // what cannot be quoted was refused
		l.b.WriteString(token)
	}
	l.b.WriteByte('\n')
}

// option writes an option with its values, where there are any.
func (l *lines) option(name string, values ...string) {
	if len(values) > 0 && values[0] != "" {
		l.line(append([]string{name}, values...)...)
	}
}

func (l *lines) open(words ...string) {
	l.line(words...)
	s := strings.TrimSuffix(l.b.String(), "\n")
	l.b.Reset()
	l.b.WriteString(s + " {\n")
	l.depth++
}

func (l *lines) close() {
	l.depth--
	l.b.WriteString(strings.Repeat("\t", l.depth) + "}\n")
}

// caddyfile is all that the draft comes to. A whole one stands for itself: it has an issuer, the handler, and a provider, which
// for one that exists elsewhere only stands in.
func (w *writing) caddyfile(issuer string, whole bool) string {
	var l lines
	l.b.WriteString("{\n")
	l.depth = 1
	l.open("oauth_proxy")
	if whole {
		l.line("issuer", issuer)
		l.b.WriteByte('\n')
	}
	if whole && w.provider == nil {
		// Of all types it takes the most kinds of rules for who may come in. The real one was asked before.
		l.open("provider", w.name)
		l.line("type", "github")
		l.line("client_id", "stands-in")
		l.line("client_secret", "{env.STANDS_IN}")
		l.close()
		l.b.WriteByte('\n')
	}
	l.b.WriteString(w.global(l.depth))
	l.close()
	l.close()
	l.b.WriteByte('\n')
	gateway, server := siteAddress(issuer), siteAddress(w.proxy.Resource)
	if whole && gateway != server {
		l.open(gateway)
		l.line("oauth_proxy")
		l.close()
		l.b.WriteByte('\n')
	}
	l.open(server)
	if whole && gateway == server {
		l.line("oauth_proxy")
	}
	l.b.WriteString(w.site(l.depth))
	l.close()
	return l.b.String()
}

// siteAddress is how a Caddyfile calls the site of a URL.
func siteAddress(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text
	}
	if u.Scheme == "https" {
		return u.Host
	}
	return u.Scheme + "://" + u.Host
}

// global is the part for the global option: the provider, where it is new, and the proxy.
func (w *writing) global(depth int) string {
	l := lines{depth: depth}
	if p := w.provider; p != nil {
		l.open("provider", w.name)
		l.option("type", p.Type)
		l.option("server", p.Server)
		if p.PrivateNetwork {
			l.line("private_network")
		}
		l.option("domain", p.Domain)
		l.option("tenant", p.Tenant)
		l.option("issuer", p.Issuer)
		l.option("authorization_server", p.AuthorizationServer)
		l.option("audience", p.Audience)
		l.option("client_id", p.ClientID)
		l.option("client_secret", p.ClientSecret)
		l.option("token_endpoint_auth_method", p.TokenEndpointAuthMethod)
		l.option("authorization_url", p.AuthorizationURL)
		l.option("token_url", p.TokenURL)
		l.option("userinfo_url", p.UserinfoURL)
		l.option("subject_field", p.SubjectField)
		l.option("revocation_url", p.RevocationURL)
		l.option("scopes", p.Scopes...)
		l.close()
		l.b.WriteByte('\n')
	}
	l.open("proxy", w.id)
	l.option("name", w.proxy.Name)
	l.option("resource", w.proxy.Resource)
	l.option("provider", w.proxy.Provider)
	l.option("scopes", w.proxy.Scopes...)
	l.option("allowed_redirects", w.proxy.AllowedRedirects...)
	l.option("consent", strings.Fields(w.proxy.Consent)...)
	if w.proxy.Compat {
		l.line("compat")
	}
	for _, rule := range []struct {
		kind   string
		values []string
	}{
		{"email_domain", w.proxy.Allow.EmailDomains}, {"email", w.proxy.Allow.Emails}, {"user", w.proxy.Allow.Users},
		{"login", w.proxy.Allow.Logins}, {"group", w.proxy.Allow.Groups}, {"org", w.proxy.Allow.Orgs},
	} {
		if len(rule.values) > 0 {
			l.line(append([]string{"allow", rule.kind}, rule.values...)...)
		}
	}
	l.close()
	return l.b.String()
}

// site is the part for the site.
func (w *writing) site(depth int) string {
	l := lines{depth: depth}
	l.line("mcp_proxy", w.id, w.upstream)
	return l.b.String()
}

// readBack compares what the adapter made of the Caddyfile with what it was made of, so that nobody is given a text that says something
// else, and returns the site's route.
func (w *writing) readBack(adapted []byte, want *Addition) (json.RawMessage, error) {
	var config struct {
		Apps struct {
			OAuthProxy struct {
				Providers map[string]json.RawMessage `json:"providers"`
				Proxies   map[string]json.RawMessage `json:"proxies"`
			} `json:"oauth_proxy"`
			HTTP any `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(adapted, &config); err != nil {
		return nil, fmt.Errorf("the Caddyfile's JSON: %w", err)
	}
	got := config.Apps.OAuthProxy
	if !sameJSON(got.Proxies[want.Proxy], want.ProxyJSON) || want.ProviderJSON != nil && !sameJSON(got.Providers[want.Provider], want.ProviderJSON) {
		return nil, errors.New("a Caddyfile cannot say what was filled in: leave out quotes, backticks, backslashes and braces")
	}
	route := filterRoute(config.Apps.HTTP, want.Proxy)
	if route == nil {
		return nil, errors.New("the Caddyfile's JSON has no route for the proxy")
	}
	return plainJSON(route)
}

func sameJSON(a, b []byte) bool {
	var x, y any
	decoder := json.NewDecoder(bytes.NewReader(a))
	return decoder.Decode(&x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// filterRoute finds the route with the filter of a proxy, anywhere below.
func filterRoute(v any, proxy string) map[string]any {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if found := filterRoute(e, proxy); found != nil {
				return found
			}
		}
	case map[string]any:
		if handlers, _ := v["handle"].([]any); slices.ContainsFunc(handlers, func(h any) bool {
			m, _ := h.(map[string]any)
			return m["handler"] == "mcp_filter" && m["proxy"] == proxy
		}) {
			return v
		}
		for _, e := range v {
			if found := filterRoute(e, proxy); found != nil {
				return found
			}
		}
	}
	return nil
}
