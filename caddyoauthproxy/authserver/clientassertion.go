package authserver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejson "github.com/go-jose/go-jose/v4/json"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// assertionType is the client_assertion_type of private_key_jwt (RFC 7523 §2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// maxAssertionLife is how far in the future an assertion may end.
const maxAssertionLife = 5 * time.Minute

// assertionAlgorithms are what clients may sign with: asymmetric ones, and none that is deprecated.
var assertionAlgorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512, jose.RS256, jose.RS384, jose.RS512, jose.EdDSA}

// assertionClaims are the claims of a client assertion (RFC 7523 §3).
type assertionClaims struct {
	Issuer    string              `json:"iss"`
	Subject   string              `json:"sub"`
	Audience  josejson.RawMessage `json:"aud"`
	JTI       string              `json:"jti"`
	Expires   float64             `json:"exp"`
	NotBefore float64             `json:"nbf"`
}

// checkAssertion verifies a client's assertion and uses it up: none is accepted twice, on any node.
func (s *Server) checkAssertion(ctx context.Context, c *tokenstore.Client, assertion string) error {
	if len(assertion) > maxAccessToken {
		return errInvalidClient("client assertion is too long")
	}
	jws, err := jose.ParseSignedCompact(assertion, assertionAlgorithms)
	if err != nil {
		return errInvalidClient("client assertion is malformed or signed with an algorithm that is not accepted")
	}
	payload, err := s.verifyWithClientKeys(ctx, c, jws)
	if err != nil {
		return err
	}
	var claims assertionClaims
	if err := josejson.Unmarshal(payload, &claims); err != nil {
		return errInvalidClient("client assertion has malformed claims")
	}
	now := s.vault.Now()
	expires := time.Unix(int64(min(max(claims.Expires, 0), 1<<40)), 0)
	switch {
	case claims.Issuer != c.ID || claims.Subject != c.ID:
		return errInvalidClient("client assertion of another client")
	case !s.isOwnAudience(claims.Audience):
		return errInvalidClient("client assertion for another audience")
	case !now.Before(expires.Add(clockLeeway)):
		return errInvalidClient("client assertion has expired")
	case expires.After(now.Add(maxAssertionLife + clockLeeway)):
		return errInvalidClient("client assertion lives longer than 5 minutes")
	case claims.NotBefore > float64(now.Add(clockLeeway).Unix()):
		return errInvalidClient("client assertion is not valid yet")
	case claims.JTI == "" || len(claims.JTI) > 256:
		return errInvalidClient("client assertion has no jti")
	}
	// Storing it costs more than anything else here, whatever becomes of the request.
	key := "assertion " + c.ID
	if err := tooMany(s.limits.client.charge(ctx, key, now)); err != nil {
		return err
	}
	err = s.vault.Commit(ctx, tokenstore.Save(&tokenstore.Assertion{
		Meta:     tokenstore.Meta{ID: s.vault.Derive(purposeAssertion, c.ID, claims.JTI), DeleteAfter: expires.Add(2 * clockLeeway)},
		ClientID: c.ID,
	}))
	if errors.Is(err, tokenstore.ErrConflict) {
		s.limits.client.refund(ctx, key) // whoever repeats what it saw uses nothing up
		return errInvalidClient("client assertion was used before")
	}
	if err != nil {
		return fmt.Errorf("use client assertion: %w", err)
	}
	return nil
}

// isOwnAudience accepts the issuer and every spelling of the token endpoint, alone (RFC 7523 §3 item 3): an assertion that
// is good at several servers could be passed on by any of them.
func (s *Server) isOwnAudience(raw josejson.RawMessage) bool {
	var one string
	if josejson.Unmarshal(raw, &one) != nil {
		var list []string
		if josejson.Unmarshal(raw, &list) != nil || len(list) != 1 {
			return false
		}
		one = list[0]
	}
	return one == s.issuer || one == s.endpoint("", "token") ||
		slices.ContainsFunc(s.order, func(p *Proxy) bool { return one == s.endpoint(p.ID, "token") })
}

// verifyWithClientKeys checks the signature with the client's own keys, wherever they are. Nothing in the assertion's header
// but the kid has a say in which.
func (s *Server) verifyWithClientKeys(ctx context.Context, c *tokenstore.Client, jws *jose.JSONWebSignature) ([]byte, error) {
	keys, err := s.clientKeys(ctx, c)
	if err != nil {
		return nil, err
	}
	kid := jws.Signatures[0].Header.KeyID
	alg := jws.Signatures[0].Header.Algorithm
	for _, key := range keys.Keys {
		if kid != "" && key.KeyID != "" && kid != key.KeyID || key.Use == "enc" || key.Algorithm != "" && key.Algorithm != alg {
			continue
		}
		if payload, err := jws.Verify(key.Key); err == nil {
			return payload, nil
		}
	}
	return nil, errInvalidClient("client assertion is not signed by a key of the client")
}

func (s *Server) clientKeys(ctx context.Context, c *tokenstore.Client) (*jose.JSONWebKeySet, error) {
	if c.JWKSURI == "" {
		return parseClientKeys(c.JWKS)
	}
	v, err := s.documents.get(ctx, wanted{c.JWKSURI, maxKeySet, s.namesOwnKeys(c), func(body []byte) (any, error) { return parseClientKeys(body) }}, staleForToken)
	if err != nil {
		return nil, err
	}
	return v.(*jose.JSONWebKeySet), nil
}

// namesOwnKeys is the id of a client whose jwks_uri surely is not somebody else's address: the operator wrote it down, or it is on the host
// that publishes the client. Anybody may register with any other.
func (s *Server) namesOwnKeys(c *tokenstore.Client) string {
	id, err := url.Parse(c.ID)
	keys, keysErr := url.Parse(c.JWKSURI)
	if s.configured[c.ID] != nil || err == nil && keysErr == nil && canonicalHost(id) == canonicalHost(keys) {
		return c.ID
	}
	return ""
}

// validClientKeys says whether keys can be a client's. A set given by its address is looked at when it is needed.
func validClientKeys(jwks josejson.RawMessage, uri string) error {
	if uri != "" {
		if u, err := url.Parse(uri); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			return errors.New("jwks_uri must be an https URL")
		}
		return nil
	}
	_, err := parseClientKeys(json.RawMessage(jwks))
	return err
}

// ValidKeySet says whether a JSON Web Key Set can be that of a client: public keys only.
func ValidKeySet(raw []byte) error {
	_, err := parseClientKeys(raw)
	return err
}

// parseClientKeys reads a key set, which must hold public keys only. A key that this server does not know is passed over.
func parseClientKeys(raw []byte) (*jose.JSONWebKeySet, error) {
	var set struct {
		Keys []josejson.RawMessage `json:"keys"`
	}
	if err := josejson.Unmarshal(raw, &set); err != nil {
		return nil, errors.New("jwks is not a JSON Web Key Set")
	}
	keys := new(jose.JSONWebKeySet)
	for _, one := range set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(one) != nil {
			continue
		}
		if !key.IsPublic() || !key.Valid() {
			return nil, errors.New("jwks holds a key that is not a public one; a private key that was sent here should be replaced")
		}
		keys.Keys = append(keys.Keys, key)
	}
	if len(keys.Keys) == 0 || len(keys.Keys) > 20 {
		return nil, errors.New("jwks must hold 1 to 20 public keys")
	}
	return keys, nil
}

// assertionSubject reads whom an assertion is about, before anything of it is believed.
func assertionSubject(assertion string) string {
	segments := strings.Split(assertion, ".")
	if len(segments) != 3 || len(assertion) > maxAccessToken {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(segments[1])
	if err != nil {
		return ""
	}
	var claims assertionClaims
	if josejson.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.Subject
}
