package caddyoauthproxy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// Registration says which clients may register themselves (RFC 7591), and how long they are kept.
type Registration struct {
	// Closes the registration endpoint.
	Off bool `json:"off,omitempty"`

	// Initial access tokens, as placeholders: a registration must carry one of them as its bearer token. Default: anybody may register.
	Tokens []string `json:"tokens,omitempty"`

	// How long a client is kept after its last token. It always outlasts the client's grants. Default: 90d.
	ClientTTL caddy.Duration `json:"client_ttl,omitempty"`

	// How long a client is kept that never got a token. Default: 24h.
	UnusedClientTTL caddy.Duration `json:"unused_client_ttl,omitempty"`

	// How many clients that never got a token are kept at most; the oldest give way to new ones. Default: 10000.
	MaxUnused int `json:"max_unused,omitempty"`

	// The same for those that registered from one network address. Default: 100.
	MaxUnusedPerAddress int `json:"max_unused_per_address,omitempty"`
}

// maxMaxUnused bounds max_unused and max_unused_per_address.
const maxMaxUnused = 1_000_000

func (r Registration) check() error {
	if r.Off && len(r.Tokens) > 0 {
		return errors.New("registration is off and has tokens; choose one")
	}
	for _, token := range r.Tokens {
		if err := checkSecret(token); err != nil {
			return fmt.Errorf("registration token %w", err)
		}
	}
	var errs []error
	for name, n := range map[string]int{"max_unused": r.MaxUnused, "max_unused_per_address": r.MaxUnusedPerAddress} {
		if n < 0 || n > maxMaxUnused {
			errs = append(errs, fmt.Errorf("%s %d is out of range: 1 to %d", name, n, maxMaxUnused))
		}
	}
	const day = 24 * time.Hour
	return errors.Join(append(errs,
		inRange("client_ttl", r.ClientTTL, time.Hour, 4000*day),
		inRange("unused_client_ttl", r.UnusedClientTTL, time.Minute, 400*day))...)
}

func (r Registration) resolve() (authserver.Registration, error) {
	out := authserver.Registration{Off: r.Off, TTL: time.Duration(r.ClientTTL), UnusedTTL: time.Duration(r.UnusedClientTTL),
		MaxUnused: r.MaxUnused, MaxPerAddress: r.MaxUnusedPerAddress}
	for _, text := range r.Tokens {
		token, err := resolveSecret(text)
		if err != nil {
			return out, fmt.Errorf("registration token: %w", err)
		}
		if len(token) < 16 {
			return out, fmt.Errorf("registration token: %s has less than 16 characters; make one with openssl rand -base64 32", text)
		}
		out.Tokens = append(out.Tokens, token)
	}
	return out, r.check()
}

// MetadataDocuments says whose client ID metadata documents are accepted: clients whose client_id is the https URL of
// their own metadata, which the gateway fetches.
type MetadataDocuments struct {
	// Accepts none.
	Off bool `json:"off,omitempty"`

	// The hosts whose documents are accepted, such as `claude.ai`, or `*.example.com` for all below example.com. Default: every public host.
	Hosts []string `json:"hosts,omitempty"`
}

func (m MetadataDocuments) check() error {
	if m.Off && len(m.Hosts) > 0 {
		return errors.New("metadata_documents is off and names hosts; choose one")
	}
	for _, host := range m.Hosts {
		if strings.ContainsAny(strings.TrimPrefix(host, "*."), "*/@ ?#") || !strings.Contains(host, ".") {
			return fmt.Errorf("metadata_documents: %q is not a host such as claude.ai or *.example.com", host)
		}
	}
	return nil
}

// RateLimit is so many requests in so much time.
type RateLimit struct {
	// How many requests; -1 for no limit.
	Events int `json:"events,omitempty"`

	// In how much time.
	Window caddy.Duration `json:"window,omitempty"`
}

// rateLimits are the names of rate_limits, and where each goes.
var rateLimits = map[string]func(*authserver.Limits) *authserver.Rate{
	"register":  func(l *authserver.Limits) *authserver.Rate { return &l.Register },
	"authorize": func(l *authserver.Limits) *authserver.Rate { return &l.Authorize },
	"login":     func(l *authserver.Limits) *authserver.Rate { return &l.Login },
	"token":     func(l *authserver.Limits) *authserver.Rate { return &l.Token },
	"client":    func(l *authserver.Limits) *authserver.Rate { return &l.Client },
}

func (r *RateLimit) check(name string) error {
	switch {
	case rateLimits[name] == nil:
		return fmt.Errorf("rate_limit %q is unknown; known are %s", name, listed(rateLimits))
	case r == nil || r.Events == 0 || r.Events > 0 && r.Window <= 0:
		return fmt.Errorf("rate_limit %s needs events and a window, such as 60 and 1m, or off", name)
	}
	return nil
}

func resolveLimits(config map[string]*RateLimit) (authserver.Limits, error) {
	var limits authserver.Limits
	for name, r := range config {
		if err := r.check(name); err != nil {
			return limits, err
		}
		*rateLimits[name](&limits) = authserver.Rate{Events: r.Events, Window: time.Duration(r.Window)}
	}
	return limits, nil
}

// consentModes are the values of consent. The last is the explicit word for what is unsafe.
var consentModes = []string{"", "always", "remember", "off", consentOffUnsafe}

const consentOffUnsafe = "off unsafe"

func checkConsent(text string) error {
	if !slices.Contains(consentModes, text) {
		return fmt.Errorf("consent is always, remember, off, or off unsafe, not %q", text)
	}
	return nil
}

// consentMode is the mode that a proxy's setting, or else the gateway's, means.
func (a *App) consentMode(p *Proxy) (authserver.ConsentMode, error) {
	text := p.Consent
	if text == "" {
		text = a.Consent
	}
	if err := checkConsent(text); err != nil {
		return "", err
	}
	switch text {
	case consentOffUnsafe:
		return authserver.ConsentOff, nil
	case "off":
		if a.anybodyCanBeAClient() {
			return "", errors.New("consent off lets whoever makes a client log in every user who follows a link, unseen. Close registration (registration off, or registration token …) " +
				"and metadata documents (metadata_documents off, or name hosts) first, or write consent off unsafe")
		}
	}
	return authserver.ConsentMode(text), nil
}

// anybodyCanBeAClient reports whether strangers can make clients of this gateway.
func (a *App) anybodyCanBeAClient() bool {
	return !a.Registration.Off && len(a.Registration.Tokens) == 0 || !a.MetadataDocuments.Off && len(a.MetadataDocuments.Hosts) == 0
}
