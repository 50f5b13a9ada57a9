package upstream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// metadata is what the gateway must know of a provider (OpenID Connect Discovery §3, RFC 8414 §2).
type metadata struct {
	Issuer                string   `json:"issuer"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	TokenEndpoint         string   `json:"token_endpoint"`
	UserinfoEndpoint      string   `json:"userinfo_endpoint"`
	RevocationEndpoint    string   `json:"revocation_endpoint"`
	JWKSURI               string   `json:"jwks_uri"`
	Algorithms            []string `json:"id_token_signing_alg_values_supported"`
	AuthMethods           []string `json:"token_endpoint_auth_methods_supported"`
	IssuerInResponse      bool     `json:"authorization_response_iss_parameter_supported"`
	Scopes                []string `json:"scopes_supported"`
	ChallengeMethods      []string `json:"code_challenge_methods_supported"`
	RegistrationEndpoint  string   `json:"registration_endpoint"`
	ClientDocuments       bool     `json:"client_id_metadata_document_supported"`

	// Of the MCP server that the provider protects: what to name as the resource, and which scopes to ask for. Empty where there is none.
	resource string
	scopes   []string
}

// scopesFor are the scopes to ask for: the operator's and the template's, or else what the MCP server wants.
func (m *metadata) scopesFor(p *Provider) []string {
	scopes := slices.Clone(p.scopes)
	if p.template.mcp && len(scopes) == 0 {
		scopes = slices.Clone(m.scopes)
	}
	if p.template.mcp && slices.Contains(m.Scopes, "offline_access") && !slices.Contains(scopes, "offline_access") {
		scopes = append(scopes, "offline_access")
	}
	return scopes
}

// idTokenAlgorithms are the signatures that the gateway accepts. A provider's list can only narrow it: none
// is no signature, and for HS* the client secret would be the key.
var idTokenAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// discover gets the provider's metadata: from the configuration where there is no discovery.
func (p *Provider) discover(ctx context.Context) (*metadata, error) {
	if p.template.mcp {
		m, err := p.locate(ctx)
		p.answered(err)
		return m, err
	}
	if !p.template.oidc {
		m := &metadata{
			Issuer:                p.issuer,
			AuthorizationEndpoint: p.template.authorizationURL,
			TokenEndpoint:         p.template.tokenURL,
			UserinfoEndpoint:      p.template.userinfoURL,
			RevocationEndpoint:    cmp.Or(p.config.RevocationURL, p.template.revocationURL),
		}
		if m.TokenEndpoint == "" {
			m.AuthorizationEndpoint, m.TokenEndpoint, m.UserinfoEndpoint = p.config.AuthorizationURL, p.config.TokenURL, p.config.UserinfoURL
		}
		return m, nil
	}
	body, err := p.getJSON(ctx, strings.TrimSuffix(p.issuer, "/")+"/.well-known/openid-configuration", "")
	if err != nil {
		p.answered(err)
		return nil, in("discovery", err)
	}
	m, err := p.parseMetadata(body)
	p.answered(err)
	if err != nil {
		return nil, in("discovery", err)
	}
	return m, nil
}

// parseMetadata reads a discovery document and checks all that it makes the gateway do.
func (p *Provider) parseMetadata(body []byte) (*metadata, error) {
	m := new(metadata)
	if err := json.Unmarshal(body, m); err != nil {
		return nil, &Error{Class: Malformed, Err: errors.New("document is not the JSON of a provider")}
	}
	// OpenID Connect Discovery §4.3: identical, to the byte.
	if m.Issuer != p.issuer && !p.isManyTenants(m.Issuer) {
		return nil, &Error{Class: Misconfigured, Err: fmt.Errorf("document is that of issuer %.200q, not %q: correct the issuer, a trailing slash counts", m.Issuer, p.issuer)}
	}
	for _, e := range []struct {
		name, url string
		needed    bool
	}{
		{"authorization_endpoint", m.AuthorizationEndpoint, true},
		{"token_endpoint", m.TokenEndpoint, true},
		{"jwks_uri", m.JWKSURI, true},
		{"userinfo_endpoint", m.UserinfoEndpoint, false},
		{"revocation_endpoint", m.RevocationEndpoint, false},
	} {
		if e.url == "" && !e.needed {
			continue
		}
		if err := checkEndpoint(p.issuer, e.url); err != nil {
			return nil, &Error{Class: Misconfigured, Err: fmt.Errorf("%s: %w", e.name, err)}
		}
	}
	if len(m.Algorithms) == 0 {
		m.Algorithms = []string{"RS256"}
	}
	m.Algorithms = slices.DeleteFunc(m.Algorithms, func(alg string) bool { return !slices.Contains(idTokenAlgorithms, alg) })
	if len(m.Algorithms) == 0 {
		return nil, &Error{Class: Misconfigured, Err: errors.New("the provider offers no asymmetric signature for ID tokens: choose one there, such as RS256")}
	}
	if p.config.RevocationURL != "" {
		m.RevocationEndpoint = p.config.RevocationURL
	}
	return m, nil
}

// isManyTenants reports whether iss is Entra's pattern for users of many directories, and that is configured.
func (p *Provider) isManyTenants(iss string) bool {
	return p.template.entra && !isGUID(p.config.Tenant) && iss == strings.Replace(p.template.issuer, "{tenant}", "{tenantid}", 1)
}

// document is something that a provider publishes, fetched when it is first needed and kept. All who
// need it share one fetch, which goes on when they leave. After a failure there is none for a moment.
type document[T any] struct {
	timeout time.Duration
	now     func() time.Time
	fetch   func(context.Context) (T, error)

	mu      sync.Mutex
	have    bool
	value   T
	fetched time.Time
	pending chan struct{}
	err     error
	pause   backoff
}

// documentPause bounds how long after a failed fetch the same answer is given.
const documentPause = 5 * time.Second

func (d *document[T]) init(timeout time.Duration, now func() time.Time, fetch func(context.Context) (T, error)) {
	d.timeout, d.now, d.fetch = timeout, now, fetch
	d.pause.limit = documentPause
}

// peek returns the document if it was fetched.
func (d *document[T]) peek() (T, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.value, d.have
}

// get returns the document, fetched if need be.
func (d *document[T]) get(ctx context.Context) (T, error) {
	return d.newer(ctx, time.Time{})
}

// newer returns the document as it was at the given time or later.
func (d *document[T]) newer(ctx context.Context, than time.Time) (T, error) {
	var none T
	for first := true; ; first = false {
		d.mu.Lock()
		switch {
		case d.have && !d.fetched.Before(than):
			defer d.mu.Unlock()
			return d.value, nil
		case d.err != nil && (!first || d.pause.wait(d.now()) > 0):
			defer d.mu.Unlock()
			return none, d.err
		case d.pending == nil:
			d.pending = make(chan struct{})
			go d.refetch(context.WithoutCancel(ctx), d.pending)
		}
		pending := d.pending
		d.mu.Unlock()
		select {
		case <-pending:
		case <-ctx.Done():
			return none, &Error{Class: Unreachable, Err: fmt.Errorf("wait for the provider's documents: %w", ctx.Err())}
		}
	}
}

// refetch fetches once and ends with the timeout.
func (d *document[T]) refetch(ctx context.Context, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	value, err := d.fetch(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	defer close(done)
	d.pending, d.err = nil, err
	if err != nil {
		d.pause.failed(d.now(), 0)
		return
	}
	d.have, d.value, d.fetched, d.pause = true, value, d.now(), backoff{limit: documentPause}
}
