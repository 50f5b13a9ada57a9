package caddyoauthproxy

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/outbound"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/wwwauth"
)

// examination is what was found about one part of the configuration.
type examination struct {
	Subject  string             `json:"subject"`
	Findings []upstream.Finding `json:"findings"`
}

// doctorTimeout bounds each request that the doctor makes.
const doctorTimeout = 10 * time.Second

// runDoctor is the command `caddy oauth-proxy doctor`.
func runDoctor(fl caddycmd.Flags) (int, error) {
	app, release, err := loadApp(fl.String("config"), fl.String("adapter"))
	if err != nil {
		return exitFailed, err
	}
	defer release()
	reports := app.examine(context.Background())
	if fl.Bool("json") {
		err = json.NewEncoder(os.Stdout).Encode(reports)
	} else {
		err = printReports(os.Stdout, reports)
	}
	if err != nil {
		return 1, err
	}
	for _, r := range reports {
		if slices.ContainsFunc(r.Findings, func(f upstream.Finding) bool { return f.Level == upstream.Problem }) {
			return exitFailed, errProblems
		}
	}
	return 0, nil
}

// loadApp provisions the app of a config file, without starting anything.
func loadApp(file, adapter string) (app *App, release func(), err error) {
	if file == "" {
		file = "Caddyfile"
	}
	if app, err = readApp(file, adapter); err != nil {
		return nil, nil, err
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	if err := app.Provision(ctx); err != nil {
		cancel()
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return app, cancel, nil
}

// examine checks everything that can be checked before the first login.
func (a *App) examine(ctx context.Context) []examination {
	client := outbound.New(doctorTimeout, 1)
	reports := make([]examination, 0, 1+len(a.config.providers)+len(a.config.proxies))
	reports = append(reports, examination{"gateway " + a.Issuer, a.examineGateway(ctx, client)})
	for _, name := range slices.Sorted(maps.Keys(a.config.providers)) {
		redirectURI := authserver.RedirectURI(a.config.issuer, a.CallbackPath)
		if a.config.providers[name].AsksForMore() {
			redirectURI = authserver.OwnRedirectURI(a.config.issuer, name)
		}
		found := a.config.providers[name].Examine(ctx, redirectURI)
		if a.config.providers[name].HasClient() {
			found = slices.Insert(found, 0, upstream.Finding{Level: upstream.Note, What: "redirect URI to register there: " + redirectURI})
		}
		reports = append(reports, examination{"provider " + name, found})
	}
	for _, p := range a.config.proxies {
		reports = append(reports, examination{"proxy " + p.ID, examineProxy(ctx, client, p)})
	}
	return reports
}

func (a *App) examineGateway(ctx context.Context, client *http.Client) []upstream.Finding {
	issuer := strings.TrimSuffix(a.config.issuer.String(), "/")
	metadata := published(ctx, client, issuer+"/.well-known/oauth-authorization-server", "issuer", issuer)
	found := append(a.examineKeys(ctx), metadata)
	if metadata.Level == upstream.Fine { // else the running configuration may be one of before this one
		found = append(found, a.served(ctx, client, issuer+readyPath))
	}
	return found
}

func examineProxy(ctx context.Context, client *http.Client, p *authserver.Proxy) []upstream.Finding {
	metadata := published(ctx, client, authserver.ResourceMetadataURL(p), "resource", p.Resource)
	found := []upstream.Finding{metadata}
	if metadata.Level == upstream.Fine { // else the running configuration may be one of before this one
		found = append(found, guarded(ctx, client, p))
	}
	if p.Allow.Everybody() {
		found = append(found, upstream.Finding{Level: upstream.Note, What: fmt.Sprintf("no allow: every user of %s may come in", cmp.Or(p.Login, p.Provider).Name())})
	}
	if p.Consent == authserver.ConsentOff {
		found = append(found, upstream.Finding{Level: upstream.Note, What: "consent is off: users are not asked whether a client may act for them"})
	}
	return found
}

// askAsStranger gets an address of the running gateway, as somebody without a token.
func askAsStranger(ctx context.Context, client *http.Client, address string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", outbound.UserAgent)
	return client.Do(req)
}

// unreached is for an address where nothing, or nothing legible, was found.
func unreached(address, why string) upstream.Finding {
	return upstream.Finding{Level: upstream.Warning, What: fmt.Sprintf("%s cannot be read: %s", address, why),
		Fix: "if Caddy is not running yet, that is why; otherwise check that the name leads to it, and that its site has oauth_proxy or mcp_proxy"}
}

// published looks at a document that the running gateway should serve to everybody, and at the member that says whose it is.
func published(ctx context.Context, client *http.Client, address, member, want string) upstream.Finding {
	resp, err := askAsStranger(ctx, client, address)
	if err != nil {
		return unreached(address, err.Error())
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return unreached(address, resp.Status)
	}
	var doc map[string]any
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&doc); err != nil {
		return unreached(address, "it is not JSON")
	}
	if doc[member] != want {
		return upstream.Finding{Level: upstream.Problem, What: fmt.Sprintf("%s says that its %s is %q, not %q", address, member, fmt.Sprint(doc[member]), want),
			Fix: "another server answers at this address, or the running configuration is another"}
	}
	return upstream.Finding{Level: upstream.Fine, What: "serves " + address}
}

// served looks whether the handler oauth_proxy is there: mcp_proxy serves the metadata as well, and Caddy answers what no handler does with an empty 200.
func (a *App) served(ctx context.Context, client *http.Client, address string) upstream.Finding {
	resp, err := askAsStranger(ctx, client, address)
	if err != nil {
		return unreached(address, err.Error())
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 200))
	switch {
	case err != nil:
		return unreached(address, err.Error())
	case resp.StatusCode == http.StatusOK && string(text) == readyText+"\n":
		return upstream.Finding{Level: upstream.Fine, What: "serves " + address}
	case resp.StatusCode == http.StatusServiceUnavailable:
		return upstream.Finding{Level: upstream.Warning, What: fmt.Sprintf("%s: %s: %q", address, resp.Status, strings.TrimSpace(string(text))),
			Fix: "nobody can log in until it is ready: see the gateway's log, or that of the balancer in front of it"}
	default:
		return upstream.Finding{Level: upstream.Problem, What: fmt.Sprintf("no site has the directive oauth_proxy: %s answers %s, and not as the gateway does", address, resp.Status),
			Fix: fmt.Sprintf("write oauth_proxy into the site of %s; if it stands there, something in front of it answers", a.config.issuer.Host)}
	}
}

// guarded looks whether a filter stands before the MCP server of a proxy: it sends away who has no token, and tells where to get one (RFC 9728 §5.1).
func guarded(ctx context.Context, client *http.Client, p *authserver.Proxy) upstream.Finding {
	resp, err := askAsStranger(ctx, client, p.Resource)
	if err != nil {
		return unreached(p.Resource, err.Error())
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized && wwwauth.Bearer(strings.Join(resp.Header.Values("WWW-Authenticate"), ", "))["resource_metadata"] == authserver.ResourceMetadataURL(p) {
		return upstream.Finding{Level: upstream.Fine, What: "asks for a token at " + p.Resource}
	}
	if resp.StatusCode == http.StatusServiceUnavailable {
		return upstream.Finding{Level: upstream.Warning, What: p.Resource + ": " + resp.Status, Fix: "see the gateway's log, or that of the balancer in front of it"}
	}
	return upstream.Finding{Level: upstream.Problem,
		What: fmt.Sprintf("%s: no mcp_proxy %s or mcp_filter %[2]s answers there: %[3]s, and not a 401 that names its metadata", p.Resource, p.ID, resp.Status),
		Fix:  fmt.Sprintf("write mcp_proxy %s with the URL of the MCP server into the site of %s; if it stands there, something in front of it answers", p.ID, p.ResourceURL.Host)}
}

// printReports writes the findings for people.
func printReports(w io.Writer, reports []examination) error {
	var b strings.Builder
	for i, r := range reports {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(r.Subject + "\n")
		for _, f := range r.Findings {
			fmt.Fprintf(&b, "  %-8s %s\n", f.Level, f.What)
			if f.Fix != "" {
				fmt.Fprintf(&b, "  %-8s → %s\n", "", f.Fix)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
