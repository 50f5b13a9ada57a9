package caddyoauthproxy

import (
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
	found := a.examineKeys(ctx)
	return append(found, published(ctx, client, strings.TrimSuffix(a.config.issuer.String(), "/")+"/.well-known/oauth-authorization-server", "issuer", strings.TrimSuffix(a.config.issuer.String(), "/")))
}

func examineProxy(ctx context.Context, client *http.Client, p *authserver.Proxy) []upstream.Finding {
	found := []upstream.Finding{published(ctx, client, authserver.ResourceMetadataURL(p), "resource", p.Resource)}
	if p.Consent == authserver.ConsentOff {
		found = append(found, upstream.Finding{Level: upstream.Note, What: "consent is off: users are not asked whether a client may act for them"})
	}
	return found
}

// published looks at a document that the running gateway should serve to everybody, and at the member that says whose it is.
func published(ctx context.Context, client *http.Client, address, member, want string) upstream.Finding {
	unreached := func(why string) upstream.Finding {
		return upstream.Finding{Level: upstream.Warning, What: fmt.Sprintf("%s cannot be read: %s", address, why),
			Fix: "if Caddy is not running yet, that is why; otherwise check that the name leads to it, and that its site has oauth_proxy or mcp_proxy"}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return unreached(err.Error())
	}
	req.Header.Set("User-Agent", outbound.UserAgent)
	resp, err := client.Do(req)
	if err != nil {
		return unreached(err.Error())
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return unreached(resp.Status)
	}
	var doc map[string]any
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&doc); err != nil {
		return unreached("it is not JSON")
	}
	if doc[member] != want {
		return upstream.Finding{Level: upstream.Problem, What: fmt.Sprintf("%s says that its %s is %q, not %q", address, member, fmt.Sprint(doc[member]), want),
			Fix: "another server answers at this address, or the running configuration is another"}
	}
	return upstream.Finding{Level: upstream.Fine, What: "serves " + address}
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
