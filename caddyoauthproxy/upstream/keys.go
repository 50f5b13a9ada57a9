package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// keysRefetch is how often at most the provider's keys are fetched again because of a token that they do not fit.
const keysRefetch = time.Minute

// keySet are the keys that verify a provider's ID tokens (RFC 7517).
type keySet struct {
	keys []jose.JSONWebKey
}

// fetchKeys gets the provider's keys. Those that cannot be read or are not for signatures are left out.
func (p *Provider) fetchKeys(ctx context.Context) (*keySet, error) {
	m, err := p.metadata.get(ctx)
	if err != nil {
		return nil, err
	}
	body, err := p.getJSON(ctx, m.JWKSURI, "")
	p.answered(err)
	if err != nil {
		return nil, in("keys", err)
	}
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, in("keys", &Error{Class: Malformed, Err: errors.New("document is not a JWK set")})
	}
	set := new(keySet)
	for _, raw := range doc.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) == nil && k.IsPublic() && k.Valid() && (k.Use == "" || k.Use == "sig") {
			set.keys = append(set.keys, k)
		}
	}
	return set, nil
}

// verifyingKeys are a provider's keys as go-oidc asks for them, for one ID token.
type verifyingKeys struct {
	provider   *Provider
	algorithms []string

	// err is why the keys could not be had; go-oidc passes errors on as text only.
	err error
}

// VerifySignature implements oidc.KeySet. A token that no key fits has the keys fetched
// again, at most once per keysRefetch.
func (v *verifyingKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	algs := make([]jose.SignatureAlgorithm, len(v.algorithms))
	for i, alg := range v.algorithms {
		algs[i] = jose.SignatureAlgorithm(alg)
	}
	jws, err := jose.ParseSignedCompact(jwt, algs)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, errors.New("token is not signed as the provider announces")
	}
	for _, newest := range []time.Time{{}, v.provider.now().Add(-keysRefetch)} {
		set, err := v.provider.keys.newer(ctx, newest)
		if err != nil {
			v.err = err
			return nil, err
		}
		if payload, ok := set.verify(jws); ok {
			return payload, nil
		}
	}
	return nil, errors.New("no key of the provider fits the signature")
}

// verify tries the keys that the token's kid and alg allow.
func (s *keySet) verify(jws *jose.JSONWebSignature) ([]byte, bool) {
	header := jws.Signatures[0].Header
	for _, k := range s.keys {
		if header.KeyID != "" && k.KeyID != "" && k.KeyID != header.KeyID || k.Algorithm != "" && k.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := jws.Verify(k.Key); err == nil {
			return payload, true
		}
	}
	return nil, false
}
