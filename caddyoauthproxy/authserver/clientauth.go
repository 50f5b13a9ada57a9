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
	authNone       = "none"
	authPost       = "client_secret_post"
	authBasic      = "client_secret_basic"
	authPrivateKey = "private_key_jwt"
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
	purposeOwner        tokenstore.Purpose = "account_owner"
	purposeAddress      tokenstore.Purpose = "address"
	purposeRate         tokenstore.Purpose = "rate"
	purposeManagement   tokenstore.Purpose = "registration_access_token"
	purposeClientHash   tokenstore.Purpose = "client_metadata"
	purposeAssertion    tokenstore.Purpose = "client_assertion"
	purposeRemembered   tokenstore.Purpose = "remembered_consent"
	purposeSession      tokenstore.Purpose = "browser_session"
	purposeAnswer       tokenstore.Purpose = "provider_code"
	purposeAPIKey       tokenstore.Purpose = "api_key"
	purposeSignIn       tokenstore.Purpose = "sign_in"
	purposeSignInCSRF   tokenstore.Purpose = "sign_in_csrf"
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

// credentials are what a request says of the client that sends it.
type credentials struct {
	id, secret, assertion string

	// verbatim is the secret of an Authorization header as it stands there, for clients that do not encode it.
	verbatim string
}

// authenticateClient finds out which client sends the form (RFC 6749 §2.3): by HTTP Basic, by
// secret in the body, by a signed assertion (RFC 7523), or as a public client by its id alone; never by two ways at once,
// and never by another than the client has.
func (s *Server) authenticateClient(ctx context.Context, r *http.Request, form url.Values) (*tokenstore.Client, error) {
	cred, err := clientCredentials(r, form)
	if err != nil {
		return nil, err
	}
	// An unknown client costs the same work as a wrong secret.
	hash, verbatim := s.vault.Hash(purposeClientSecret, cred.secret), s.vault.Hash(purposeClientSecret, cred.verbatim)
	// A metadata document may be a little out of date here: the user agreed by one that was not.
	c, err := s.findClient(ctx, cred.id, staleForToken)
	if errors.Is(err, tokenstore.ErrNotFound) {
		subtle.ConstantTimeCompare([]byte(hash), []byte(verbatim))
		return nil, errInvalidClient("no such client: " + err.Error())
	}
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	switch {
	case c.AuthMethod == authPrivateKey:
		if cred.assertion == "" {
			return nil, errInvalidClient("no assertion from a client that has keys")
		}
		return c, s.checkAssertion(ctx, c, cred.assertion)
	case cred.assertion != "":
		return nil, errInvalidClient("an assertion from a client that registered none of its keys")
	case c.AuthMethod == authNone && cred.secret == "":
		return c, nil
	case c.AuthMethod == authNone:
		return nil, errInvalidClient("a secret from a public client")
	case cred.secret == "":
		return nil, errInvalidClient("no secret from a confidential client")
	case c.SecretHash == "" || subtle.ConstantTimeCompare([]byte(hash), []byte(c.SecretHash))|subtle.ConstantTimeCompare([]byte(verbatim), []byte(c.SecretHash)) != 1:
		return nil, errInvalidClient("wrong secret")
	}
	return c, nil
}

// clientRequest reads a form that a client sends to an endpoint, and finds out which client. It counts the request
// as a failure; clientRequestDone takes that back.
func (s *Server) clientRequest(w http.ResponseWriter, r *http.Request) (*tokenstore.Client, *Proxy, url.Values, error) {
	if err := s.charge(s.limits.token, r); err != nil {
		return nil, nil, nil, err
	}
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

// clientRequestDone is called when a client's request has succeeded: only failures count against an address. An answer that
// anybody would get is no success. What is taken back here is not taken back again when the vault fails later.
func (s *Server) clientRequestDone(r *http.Request) { s.refundDues(r) }

// clientCredentials reads the client's id and its credential from the one place where they are. Clients that
// registered for Basic may send the secret in the body and the other way round: OAuth 2.1 §2.4.1
// demands the body, RFC 6749 §2.3.1 Basic, and clients confuse them.
func clientCredentials(r *http.Request, form url.Values) (credentials, error) {
	cred := credentials{id: form.Get("client_id"), secret: form.Get("client_secret")}
	headers := r.Header.Values("Authorization")
	ways := 0
	for _, used := range []bool{len(headers) > 0, cred.secret != "", form.Get("client_assertion") != ""} {
		if used {
			ways++
		}
	}
	switch {
	case len(headers) > 1:
		return cred, refuse("invalid_request", "more than one Authorization header")
	case ways > 1:
		return cred, refuse("invalid_request", "client authentication in more than one way at once")
	case form.Get("client_assertion") != "":
		cred.assertion = form.Get("client_assertion")
		if form.Get("client_assertion_type") != assertionType {
			return cred, refuse("invalid_request", "client_assertion_type must be "+assertionType)
		}
		if cred.id == "" { // RFC 7521 §4.2: the assertion may name the client alone
			cred.id = assertionSubject(cred.assertion)
		}
	case len(headers) == 1:
		id, secret, verbatim, ok := basicCredentials(headers[0])
		if !ok {
			return cred, errInvalidClient("malformed Authorization header")
		}
		if cred.id != "" && cred.id != id {
			return cred, refuse("invalid_request", "client_id in the body is not the one in the Authorization header")
		}
		cred.id, cred.secret, cred.verbatim = id, secret, verbatim
	}
	if cred.id == "" {
		return cred, errInvalidClient("no client_id")
	}
	return cred, nil
}

// basicCredentials decodes HTTP Basic. RFC 6749 §2.3.1 form-encodes both parts first; not every client does, and a
// secret of the configuration may have characters that encoding changes, so the secret is given both ways.
func basicCredentials(header string) (id, secret, verbatim string, ok bool) {
	scheme, encoded, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", "", false
	}
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return "", "", "", false
	}
	rawID, verbatim, found := strings.Cut(string(decoded), ":")
	id, err = url.QueryUnescape(rawID)
	if err != nil || !found || id == "" {
		return "", "", "", false
	}
	if secret, err = url.QueryUnescape(verbatim); err != nil {
		secret = verbatim
	}
	return id, secret, verbatim, true
}
