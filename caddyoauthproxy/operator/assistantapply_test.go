package operator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// adminOf is an admin endpoint with a config, as Caddy's answers. What it was given last it keeps.
type adminOf struct {
	config string
	status int
	given  string
}

func (a *adminOf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	etag := fmt.Sprintf(`"/config/ %x"`, len(a.config))
	switch {
	case r.URL.Path != "/config/":
		w.WriteHeader(http.StatusNotFound)
	case a.status != 0 && r.Method != http.MethodGet:
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, `{"error":"loading new config: no"}`)
	case r.Method == http.MethodGet:
		w.Header().Set("ETag", etag)
		_, _ = io.WriteString(w, a.config)
	case r.Header.Get("If-Match") != "" && r.Header.Get("If-Match") != etag:
		w.WriteHeader(http.StatusPreconditionFailed)
	default:
		raw, _ := io.ReadAll(r.Body)
		a.given = string(raw)
	}
}

func (a *adminOf) start(t *testing.T) *AdminEndpoint {
	t.Helper()
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	return &AdminEndpoint{URL: server.URL, Client: server.Client()}
}

func assistant() *Assistant { return NewAssistant(AssistantOptions{Issuer: "https://gw.test"}) }

// wiki is what the assistant has written.
func wiki() *Result {
	return &Result{
		Resource: "https://gw.test/wiki/mcp", route: json.RawMessage(`{"handle":[{"handler":"mcp_filter","proxy":"wiki"}]}`),
		addition: &Addition{Provider: "idp", ProviderJSON: json.RawMessage(`{"type":"oidc"}`), Proxy: "wiki", ProxyJSON: json.RawMessage(`{"resource":"https://gw.test/wiki/mcp"}`)},
	}
}

const runningConfig = `{"admin":{"listen":"x"},"apps":{"big":12345678901234567890,"http":{"servers":{"a":{"listen":[":443"],"routes":[{"handle":[{"handler":"oauth_proxy"}]}]}}},` +
	`"oauth_proxy":{"issuer":"https://gw.test","providers":{"github":{"client_id":"<&>"}}}}}`

func TestPlanAddsAndChangesNothingElse(t *testing.T) {
	t.Parallel()
	admin := &adminOf{config: runningConfig}
	e := admin.start(t)
	p, err := assistant().plan(t.Context(), e, wiki())
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, c := range p.changes {
		paths = append(paths, c.path)
		if !json.Valid([]byte(c.json)) {
			t.Errorf("%+v", c)
		}
	}
	if got := strings.Join(paths, " "); got != "apps/oauth_proxy/providers/idp apps/oauth_proxy/proxies/wiki apps/http/servers/a/routes/0/handle/1" || !p.behindHandler {
		t.Errorf("changes: %s", got)
	}
	if err := p.apply(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	want := `{"admin":{"listen":"x"},"apps":{"big":12345678901234567890,"http":{"servers":{"a":{"listen":[":443"],"routes":[{"handle":[{"handler":"oauth_proxy"},` +
		`{"handler":"subroute","routes":[{"handle":[{"handler":"mcp_filter","proxy":"wiki"}]}]}]}]}}},` +
		`"oauth_proxy":{"issuer":"https://gw.test","providers":{"github":{"client_id":"<&>"},"idp":{"type":"oidc"}},"proxies":{"wiki":{"resource":"https://gw.test/wiki/mcp"}}}}}`
	if admin.given != want {
		t.Errorf("got\n%s\nwant\n%s", admin.given, want)
	}
}

func TestPlanIsRefusedRatherThanGuessed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, new, want string }{
		"another process's config":   {`"issuer":"https://gw.test"`, `"issuer":"https://other.test"`, "not this gateway's"},
		"no gateway":                 {`"oauth_proxy":{`, `"other":{`, "not this gateway's"},
		"a provider of that name":    {`"github":`, `"idp":`, `has "idp" among its providers already`},
		"a proxy of that name":       {`"providers":`, `"proxies":{"wiki":{}},"providers":`, `has "wiki" among its proxies already`},
		"a route for that proxy":     {`[{"handle":[{"handler":"oauth_proxy"}]}]`, `[{"handle":[{"handler":"oauth_proxy"},{"handler":"mcp_filter","proxy":"wiki"}]}]`, "has a route for proxy"},
		"no site with the gateway":   {`"handler":"oauth_proxy"`, `"handler":"other"`, "by hand"},
		"what is no config":          {runningConfig, `[]`, "cannot be read"},
		"a site on another resource": {"", "", "not on the gateway's own site"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			admin := &adminOf{config: strings.Replace(runningConfig, c.old, c.new, 1)}
			r := wiki()
			if c.old == "" {
				r.Resource = "https://mcp.test/wiki"
			}
			_, err := assistant().plan(t.Context(), admin.start(t), r)
			var refused *ApplyError
			if !errors.As(err, &refused) || !strings.Contains(refused.Text, c.want) || admin.given != "" {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestApplySaysWhyNothingWasApplied(t *testing.T) {
	t.Parallel()
	admin := &adminOf{config: runningConfig}
	e := admin.start(t)
	p, err := assistant().plan(t.Context(), e, wiki())
	if err != nil {
		t.Fatal(err)
	}
	var refused *ApplyError
	admin.config += " "
	if err := p.apply(t.Context(), e); !errors.As(err, &refused) || refused.Status != http.StatusPreconditionFailed || !strings.Contains(refused.Text, "somebody changed") {
		t.Errorf("changed meanwhile: %v", err)
	}
	admin.status = http.StatusBadRequest
	if err := p.apply(t.Context(), e); !errors.As(err, &refused) || !strings.Contains(refused.Error(), "goes on: loading new config: no") {
		t.Errorf("refused: %v", err)
	}
	e.URL = "http://127.0.0.1:1"
	if err := p.apply(t.Context(), e); !errors.As(err, &refused) || !strings.Contains(refused.Text, "nobody knows") {
		t.Errorf("gone: %v", err)
	}
	if _, err := assistant().plan(t.Context(), e, wiki()); !errors.As(err, &refused) || !strings.Contains(refused.Text, "does not answer") {
		t.Errorf("not there: %v", err)
	}
}
