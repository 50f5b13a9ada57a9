package authserver

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// This file is the one place where clients are authenticated.

// Client authentication methods (RFC 7591 §2).
const (
	authNone  = "none"
	authPost  = "client_secret_post"
	authBasic = "client_secret_basic"
)

// purposes of keyed hashes and derived values in the vault.
const (
	purposeClientSecret tokenstore.Purpose = "client_secret"
	purposeState        tokenstore.Purpose = "state"
	purposeCode         tokenstore.Purpose = "code"
	purposeRefresh      tokenstore.Purpose = "refresh_token"
	purposeBrowser      tokenstore.Purpose = "browser"
	purposeConsent      tokenstore.Purpose = "consent"
	purposeCSRF         tokenstore.Purpose = "csrf"
	purposeLoginCookie  tokenstore.Purpose = "login_cookie"
	purposeUser         tokenstore.Purpose = "user"
)

// errInvalidClient is the answer to every failed client authentication. It is 401 and says
// nothing about which part was wrong; clients take it as the sign to register again.
func errInvalidClient(cause string) *Error {
	return &Error{
		Status:      http.StatusUnauthorized,
		Code:        "invalid_client",
		Description: "unknown client or failed client authentication; register the client again if this persists",
		Cause:       errors.New(cause),
	}
}

// authenticateClient finds out which client sends the form (RFC 6749 §2.3): by HTTP Basic, by
// secret in the body, or as a public client by its id alone; never by two ways at once.
func (s *Server) authenticateClient(ctx context.Context, r *http.Request, form url.Values) (*tokenstore.Client, error) {
	id, secret, err := clientCredentials(r, form)
	if err != nil {
		return nil, err
	}
	// An unknown client costs the same work as a wrong secret.
	hash := s.vault.Hash(purposeClientSecret, secret)
	c, err := s.client(ctx, id)
	if errors.Is(err, tokenstore.ErrNotFound) {
		subtle.ConstantTimeCompare([]byte(hash), []byte(hash))
		return nil, errInvalidClient("no such client")
	}
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	switch {
	case c.SecretHash == "" && secret == "":
		return c, nil
	case c.SecretHash == "":
		return nil, errInvalidClient("a secret from a public client")
	case secret == "":
		return nil, errInvalidClient("no secret from a confidential client")
	case subtle.ConstantTimeCompare([]byte(hash), []byte(c.SecretHash)) != 1:
		return nil, errInvalidClient("wrong secret")
	}
	return c, nil
}

// clientRequest reads a form that a client sends to an endpoint, and finds out which client.
func (s *Server) clientRequest(w http.ResponseWriter, r *http.Request) (*tokenstore.Client, *Proxy, url.Values, error) {
	pinned, err := s.proxyOf(r)
	if err != nil {
		return nil, nil, nil, err
	}
	form, err := readForm(w, r)
	if err != nil {
		return nil, nil, nil, err
	}
	client, err := s.authenticateClient(r.Context(), r, form)
	return client, pinned, form, err
}

// clientCredentials reads id and secret from the one place where they are. Clients that
// registered for Basic may send the secret in the body and the other way round: OAuth 2.1 §2.4.1
// demands the body, RFC 6749 §2.3.1 Basic, and clients confuse them.
func clientCredentials(r *http.Request, form url.Values) (id, secret string, err error) {
	headers := r.Header.Values("Authorization")
	switch {
	case len(headers) > 1:
		return "", "", refuse("invalid_request", "more than one Authorization header")
	case len(headers) == 0:
		if form.Get("client_id") == "" {
			return "", "", errInvalidClient("no client_id")
		}
		return form.Get("client_id"), form.Get("client_secret"), nil
	case form.Get("client_secret") != "":
		return "", "", refuse("invalid_request", "client authentication by header and body at once")
	}
	id, secret, ok := basicCredentials(headers[0])
	if !ok {
		return "", "", errInvalidClient("malformed Authorization header")
	}
	if inBody := form.Get("client_id"); inBody != "" && inBody != id {
		return "", "", refuse("invalid_request", "client_id in the body is not the one in the Authorization header")
	}
	return id, secret, nil
}

// basicCredentials decodes HTTP Basic. RFC 6749 §2.3.1 form-encodes both parts first; not every
// client does, but our ids and secrets are made of characters that encode to themselves.
func basicCredentials(header string) (id, secret string, ok bool) {
	scheme, encoded, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return "", "", false
	}
	rawID, rawSecret, found := strings.Cut(string(decoded), ":")
	id, errID := url.QueryUnescape(rawID)
	secret, errSecret := url.QueryUnescape(rawSecret)
	return id, secret, found && errID == nil && errSecret == nil && id != ""
}

// client loads a client by id.
func (s *Server) client(ctx context.Context, id string) (*tokenstore.Client, error) {
	if !plausibleID(id) {
		return nil, tokenstore.ErrNotFound
	}
	return s.vault.Client(ctx, id)
}

// plausibleID keeps anything but short plain identifiers away from the store.
func plausibleID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	return strings.IndexFunc(id, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	}) < 0
}
