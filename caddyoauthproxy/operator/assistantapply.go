package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// AdminEndpoint is Caddy's admin endpoint, as the running config has it.
type AdminEndpoint struct {
	// URL is its address, without a path. Client gets there, whatever kind of socket it listens on.
	URL    string
	Client *http.Client

	// Host and Origin are headers that it wants. Empty: those that follow from URL, and none.
	Host, Origin string
}

const (
	configPath     = "/config/"
	maxConfigBytes = 100 << 20        // as Caddy itself takes
	applyTimeout   = 2 * time.Minute  // a reload opens listeners, and may wait for certificates
	readTimeout    = 10 * time.Second // reading a config waits for a reload that is under way
	maxWordsOfErr  = 64 << 10         // of a refusal
	changedBetween = "somebody changed the running config meanwhile, and nothing was applied: look at the change again, and apply it then"
)

// ApplyError is why a change was not applied. The config that was running goes on.
type ApplyError struct {
	// Status is the HTTP status for whoever asked.
	Status int

	// Text is why, and what to do.
	Text string

	// Said is what Caddy says, where it is its refusal.
	Said string
}

func (e *ApplyError) Error() string {
	if e.Said == "" {
		return e.Text
	}
	return e.Text + ": " + e.Said
}

// change is a part that the running config is given.
type change struct {
	path string // where it goes, for the config API
	now  string // what stands there, in words
	json string
}

const nothing = "nothing"

// plan is a change to the running config that is ready to be applied.
type plan struct {
	etag    string
	config  map[string]any // with the change
	changes []change

	// behindHandler says that the route stands right behind oauth_proxy, in front of whatever the site has there.
	behindHandler bool
}

// plan says how the running config would change by a result.
func (a *Assistant) plan(ctx context.Context, e *AdminEndpoint, r *Result) (*plan, error) {
	u, err := url.Parse(a.o.Issuer)
	if err != nil {
		return nil, err
	}
	if resource, err := url.Parse(r.Resource); err != nil || !strings.EqualFold(resource.Host, u.Host) || resource.Scheme != u.Scheme {
		return nil, &ApplyError{Status: http.StatusConflict, Text: "the URL for chatbots is not on the gateway's own site: add the route by hand to the site that it is on"}
	}
	p := new(plan)
	if p.config, p.etag, err = e.config(ctx); err != nil {
		return nil, err
	}
	app, _ := dig(p.config, "apps", "oauth_proxy").(map[string]any)
	if running, _ := app["issuer"].(string); strings.TrimSuffix(running, "/") != a.o.Issuer {
		return nil, &ApplyError{Status: http.StatusConflict, Text: "the config at Caddy's admin endpoint is not this gateway's: another process may listen there, or the config has just changed"}
	}
	place, err := findPlace(p.config, u)
	if err != nil {
		return nil, &ApplyError{Status: http.StatusConflict, Text: err.Error()}
	}
	if r.addition.ProviderJSON != nil {
		if err := p.add(app, "providers", r.addition.Provider, r.addition.ProviderJSON); err != nil {
			return nil, err
		}
	}
	if err := p.add(app, "proxies", r.addition.Proxy, r.addition.ProxyJSON); err != nil {
		return nil, err
	}
	if filterRoute(dig(p.config, "apps", "http"), r.addition.Proxy) != nil {
		return nil, &ApplyError{Status: http.StatusConflict, Text: fmt.Sprintf("the running config has a route for proxy %q already: take it out first, or choose another id", r.addition.Proxy)}
	}
	var route any
	if err := unmarshal(r.route, &route); err != nil {
		return nil, err
	}
	p.behindHandler = !place.routes
	path, inserted := place.insert(route)
	pretty, err := indented(inserted)
	if err != nil {
		return nil, err
	}
	now := nothing
	if place.index < len(place.list) {
		now = "what stands at this place, and all behind it, moves back by one"
	}
	p.changes = append(p.changes, change{path, now, pretty})
	return p, nil
}

// add adds a provider or proxy, and never changes one.
func (p *plan) add(app map[string]any, kind, name string, raw json.RawMessage) error {
	all, _ := app[kind].(map[string]any)
	if all == nil {
		all = make(map[string]any)
		app[kind] = all
	}
	if _, taken := all[name]; taken {
		return &ApplyError{Status: http.StatusConflict, Text: fmt.Sprintf("the running config has %q among its %s already: choose another name; nothing that exists is changed", name, kind)}
	}
	var v any
	if err := unmarshal(raw, &v); err != nil {
		return err
	}
	all[name] = v
	pretty, err := indented(v)
	if err != nil {
		return err
	}
	p.changes = append(p.changes, change{"apps/oauth_proxy/" + kind + "/" + name, nothing, pretty})
	return nil
}

// apply writes the config back, unless somebody has changed it since.
func (p *plan) apply(ctx context.Context, e *AdminEndpoint) error {
	body, err := plainJSON(p.config)
	if err != nil {
		return err
	}
	// The reload ends neither with the request nor with the browser.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	resp, err := e.do(ctx, http.MethodPost, p.etag, body)
	if err != nil {
		return &ApplyError{Status: http.StatusBadGateway, Text: "Caddy's admin endpoint did not answer, and whether the change is applied nobody knows: " + err.Error()}
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusPreconditionFailed:
		return &ApplyError{Status: http.StatusPreconditionFailed, Text: changedBetween}
	}
	return &ApplyError{Status: http.StatusConflict, Text: "Caddy refused the change, and the config that was running goes on", Said: wordsOf(resp)}
}

// config reads the running config.
func (e *AdminEndpoint) config(ctx context.Context) (config map[string]any, etag string, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := e.do(ctx, http.MethodGet, "", nil)
	if err != nil {
		return nil, "", &ApplyError{Status: http.StatusBadGateway, Text: "Caddy's admin endpoint does not answer: " + err.Error() + "; where it listens is said behind apply_config, and where it is off, add the lines to the Caddyfile"}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, "", &ApplyError{Status: http.StatusBadGateway, Text: fmt.Sprintf("Caddy's admin endpoint does not show the running config (%d): %s", resp.StatusCode, wordsOf(resp))}
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxConfigBytes))
	if err == nil {
		err = unmarshal(raw, &config)
	}
	if err != nil {
		return nil, "", &ApplyError{Status: http.StatusBadGateway, Text: "the running config cannot be read: " + err.Error()}
	}
	if etag = resp.Header.Get("ETag"); etag == "" {
		return nil, "", &ApplyError{Status: http.StatusBadGateway, Text: "Caddy's admin endpoint gives the config no ETag, so that nothing can be changed safely: update Caddy"}
	}
	return config, etag, nil
}

func (e *AdminEndpoint) do(ctx context.Context, method, ifMatch string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, e.URL+configPath, bytes.NewReader(body)) //nolint:gosec // the endpoint is that of the configuration
	if err != nil {
		return nil, err
	}
	req.Host = e.Host
	for name, value := range map[string]string{"Origin": e.Origin, "If-Match": ifMatch} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := e.Client.Do(req) //nolint:gosec // as above
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	return resp, err
}

// wordsOf is what Caddy says about a request that it refused.
func wordsOf(resp *http.Response) string {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxWordsOfErr))
	var refused struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(raw, &refused) != nil || refused.Error == "" {
		return resp.Status
	}
	return refused.Error
}

// unmarshal keeps numbers as they are written.
func unmarshal(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(v)
}

// indented is JSON for people.
func indented(v any) (string, error) {
	raw, err := plainJSON(v)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, slices.Clone(raw), "", "  "); err != nil {
		return "", err
	}
	return b.String(), nil
}
