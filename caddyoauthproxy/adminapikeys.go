package caddyoauthproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// newAPIKey is the body of a request for an API key.
type newAPIKey struct {
	// What the key is for, for people. Required.
	Name string `json:"name"`

	// The proxies that the key is for. At least one.
	Proxies []string `json:"proxies"`

	// The key's scopes: at least one. Default: all of the proxies'.
	Scopes []string `json:"scopes,omitzero"`

	// How long the key lives, such as `12h` or `30d`: at most 365d. Default: 90d.
	ExpiresIn string `json:"expires_in,omitempty"`
}

// createdAPIKey is the answer to it: the one time that the key is seen.
type createdAPIKey struct {
	Key string `json:"key"`
	*authserver.APIKey
}

// maxAPIKeyRequest bounds the body of a request for an API key.
const maxAPIKeyRequest = 64 << 10

func serveAPIKeys(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return adminError(http.StatusMethodNotAllowed, errors.New("use GET, or POST to create one"))
	}
	g, leave, err := runningGateway()
	if err != nil {
		return err
	}
	defer leave()
	if r.Method == http.MethodGet {
		keys, err := g.server.APIKeys(r.Context())
		if err != nil {
			return serverError(err)
		}
		return answerAdmin(w, keys)
	}
	wanted, err := readNewAPIKey(w, r)
	if err != nil {
		return adminError(http.StatusBadRequest, err)
	}
	key, made, err := g.server.CreateAPIKey(asOperator(r), *wanted)
	if err != nil {
		return serverError(err)
	}
	w.Header().Set("Cache-Control", "no-store")
	return answerAdmin(w, createdAPIKey{key, made})
}

func revokeAPIKey(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodDelete {
		return adminError(http.StatusMethodNotAllowed, errors.New("use DELETE"))
	}
	g, leave, err := runningGateway()
	if err != nil {
		return err
	}
	defer leave()
	key, err := g.server.RevokeAPIKey(asOperator(r), r.PathValue("id"))
	if err != nil {
		return serverError(err)
	}
	return answerAdmin(w, key)
}

// readNewAPIKey reads the body of a request for a key. What it does not know it refuses: with a scope that is left out for a slip of the pen,
// the key would have all.
func readNewAPIKey(w http.ResponseWriter, r *http.Request) (*authserver.NewAPIKey, error) {
	// Web pages cannot send this type to another origin without being asked first.
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, errors.New("send a JSON object, with Content-Type: application/json")
	}
	var body newAPIKey
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAPIKeyRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		return nil, fmt.Errorf("send a JSON object with name, proxies, scopes and expires_in: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("send one JSON object")
	}
	if body.Scopes != nil && len(body.Scopes) == 0 { // such as those of a variable that a script forgot to set
		return nil, errors.New("scopes is empty: name the key's, or leave it out for all of the proxies'")
	}
	lifetime, err := parseExpiresIn(body.ExpiresIn)
	if err != nil {
		return nil, err
	}
	return &authserver.NewAPIKey{Name: body.Name, Proxies: body.Proxies, Scopes: body.Scopes, Lifetime: lifetime}, nil
}

// parseExpiresIn is the lifetime of a key, zero where none is given.
func parseExpiresIn(text string) (time.Duration, error) {
	if strings.TrimSpace(text) == "" {
		return 0, nil
	}
	d, err := caddy.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("expires %q is no time to live: write it like 12h or 30d, at most 365d; no key lives for ever", text)
	}
	return d, nil
}

// serverError says in the admin endpoint's words what the authorization server says in its own.
func serverError(err error) error {
	if refused, ok := errors.AsType[*authserver.Error](err); ok {
		status := refused.Status
		if status == 0 {
			status = http.StatusBadRequest
		}
		return adminError(status, errors.New(refused.Description))
	}
	return adminError(http.StatusServiceUnavailable, err)
}
