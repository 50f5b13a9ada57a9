package authserver

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// signingAlgorithm signs access tokens: short signatures, and in every JOSE library and key store.
const signingAlgorithm = jose.ES256

// accessTokenType is the JWT type of access tokens (RFC 9068 §2.1); an ID token or any other JWT never has it.
const accessTokenType = "at+jwt"

// keyring is the gateway's signing keys, ready for use.
type keyring struct {
	signer   jose.Signer
	byHeader map[string]*ecdsa.PublicKey // by the encoded JOSE header of tokens signed with the key
	public   *jose.JSONWebKeySet
}

// loadSigningKeys reads the keys from the vault, where the first node to come makes them.
func loadSigningKeys(ctx context.Context, v *tokenstore.Vault) (*keyring, error) {
	keys, err := v.SigningKeys(ctx)
	if errors.Is(err, tokenstore.ErrNotFound) {
		keys, err = createSigningKeys(ctx, v)
	}
	if err != nil {
		return nil, err
	}
	return newKeyring(keys)
}

func createSigningKeys(ctx context.Context, v *tokenstore.Vault) (*tokenstore.SigningKeys, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	jwk := jose.JSONWebKey{Key: private, Algorithm: string(signingAlgorithm), Use: "sig"}
	thumbprint, err := jwk.Thumbprint(crypto.SHA256) // RFC 7638
	if err != nil {
		return nil, fmt.Errorf("thumbprint: %w", err)
	}
	jwk.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
	encoded, err := jwk.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	keys := &tokenstore.SigningKeys{Keys: []tokenstore.SigningKey{{
		ID: jwk.KeyID, Algorithm: string(signingAlgorithm), JWK: encoded, Created: v.Now(),
	}}}
	err = v.Commit(ctx, tokenstore.Save(keys))
	if errors.Is(err, tokenstore.ErrConflict) {
		return v.SigningKeys(ctx) // another node was first
	}
	return keys, err
}

func newKeyring(keys *tokenstore.SigningKeys) (*keyring, error) {
	k := &keyring{byHeader: make(map[string]*ecdsa.PublicKey), public: &jose.JSONWebKeySet{}}
	for i, stored := range keys.Keys {
		var jwk jose.JSONWebKey
		if err := jwk.UnmarshalJSON(stored.JWK); err != nil {
			return nil, fmt.Errorf("key %s: unreadable", stored.ID) // the cause could quote the key
		}
		private, ok := jwk.Key.(*ecdsa.PrivateKey)
		if !ok || jwk.Algorithm != string(signingAlgorithm) {
			return nil, fmt.Errorf("key %s: not an %s key", stored.ID, signingAlgorithm)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: signingAlgorithm, Key: jwk},
			(&jose.SignerOptions{}).WithType(accessTokenType))
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", stored.ID, err)
		}
		probe, err := signer.Sign([]byte("{}"))
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", stored.ID, err)
		}
		compact, err := probe.CompactSerialize()
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", stored.ID, err)
		}
		header, _, _ := strings.Cut(compact, ".")
		k.byHeader[header] = &private.PublicKey
		k.public.Keys = append(k.public.Keys, jwk.Public())
		if i == 0 { // the newest key signs
			k.signer = signer
		}
	}
	if k.signer == nil {
		return nil, errors.New("the vault holds none")
	}
	return k, nil
}
