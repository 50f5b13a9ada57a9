package authserver

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Signing says how access tokens are signed.
type Signing struct {
	// Algorithm is ES256 (default), RS256 or EdDSA. After a change the new key takes over as in a rotation.
	Algorithm string

	// RotateAfter is how long a key signs before the next one takes over. Default: 90 d; negative for never.
	RotateAfter time.Duration
}

// SigningAlgorithms are the values of Signing.Algorithm.
func SigningAlgorithms() []string {
	return []string{string(jose.ES256), string(jose.RS256), string(jose.EdDSA)}
}

// accessTokenType is the JWT type of access tokens (RFC 9068 §2.1); an ID token or any other JWT never has it.
const accessTokenType = "at+jwt"

const (
	// keyLead is how long a new key is published before it signs, so that every node and every cache of the
	// key set knows it by then: the key set may be cached for metadataMaxAge.
	keyLead = 10 * time.Minute

	// keyOverlap is how long a key verifies after its successor began to sign: no token lives longer.
	keyOverlap = 25 * time.Hour

	defaultRotateAfter = 90 * 24 * time.Hour
)

// keyring is the gateway's signing keys. They are in the vault, and every node looks there when they change, and from time to time.
type keyring struct {
	vault   *tokenstore.Vault
	options Signing
	current atomic.Pointer[keySet]
	looks   looks
	looked  func(remembered bool) // is told of each token that is looked at, see Acts.Verified
	stop    func()                // of watching the vault
}

// keySet is the keys at one time, ready for use. They never change.
type keySet struct {
	version  uint64
	keys     []*signingKey          // the one that signs last in front
	byHeader map[string]*signingKey // by the header of access tokens
	public   *jose.JSONWebKeySet

	verified verifiedTokens
}

type signingKey struct {
	stored    tokenstore.SigningKey
	algorithm jose.SignatureAlgorithm
	private   any
	access    string // the header of access tokens
	identity  string // the header of identity assertions
	public    any
}

// openKeyring reads the keys from the vault, where the first node to come makes them.
func openKeyring(ctx context.Context, v *tokenstore.Vault, o Signing, looked func(remembered bool)) (*keyring, error) {
	if o.Algorithm == "" {
		o.Algorithm = string(jose.ES256)
	}
	if o.RotateAfter == 0 {
		o.RotateAfter = defaultRotateAfter
	}
	k := &keyring{vault: v, options: o, looked: looked}
	return k, k.maintain(ctx)
}

// watchKeys has the keys read again when another node, or another config of this one, has changed them.
func (s *Server) watchKeys(ctx context.Context) error {
	k := s.keys
	k.looks.read, k.looks.ending = k.read, s.watching
	again := &rereader{what: "signing keys", read: k.read, acquire: s.acquire, ending: s.watching, log: s.log}
	k.stop = s.vault.WatchSigningKeys(again.changed)
	if err := k.read(ctx); err != nil { // what was changed before they were watched
		k.stop()
		return err
	}
	return nil
}

// read takes the keys from the vault as they are.
func (k *keyring) read(ctx context.Context) error {
	keys, err := k.vault.SigningKeys(ctx)
	if err != nil {
		return err
	}
	if len(keys.Keys) == 0 {
		return k.maintain(ctx)
	}
	return k.take(keys)
}

// maintain brings the keys up to date: it reads what other nodes did, adds a key when it is time for one, and removes those that no
// living token is signed with.
func (k *keyring) maintain(ctx context.Context) error {
	return k.update(ctx, "by schedule, or for another algorithm", func(keys *tokenstore.SigningKeys, now time.Time) (bool, error) {
		changed := k.retire(keys, now)
		newest := keys.Keys[0]
		due := k.options.RotateAfter > 0 && now.After(newest.Signs.Add(k.options.RotateAfter-keyLead))
		if newest.Algorithm == k.options.Algorithm && !due {
			return changed, nil
		}
		return true, k.add(keys, now, now.Add(keyLead))
	})
}

// rotate begins a rotation by command. With compromised, the new key signs at once and all others are gone: every
// access token ends with them, and clients refresh.
func (k *keyring) rotate(ctx context.Context, compromised bool) error {
	reason := "by command"
	if compromised {
		reason = "by command, at once and without the others, because they are compromised"
	}
	return k.update(ctx, reason, func(keys *tokenstore.SigningKeys, now time.Time) (bool, error) {
		if compromised {
			keys.Keys = nil
			return true, k.add(keys, now, now)
		}
		if keys.Keys[0].Signs.After(now) {
			return false, nil // one is under way already
		}
		return true, k.add(keys, now, now.Add(keyLead))
	})
}

// update reads the keys, has them changed, and saves them. Whoever loses a race against another node looks again.
func (k *keyring) update(ctx context.Context, reason string, change func(*tokenstore.SigningKeys, time.Time) (bool, error)) error {
	for {
		keys, err := k.vault.SigningKeys(ctx)
		now := k.vault.Now()
		changed, newest := false, ""
		if err == nil && len(keys.Keys) > 0 {
			newest = keys.Keys[0].ID
		}
		switch {
		case errors.Is(err, tokenstore.ErrNotFound):
			keys, changed = new(tokenstore.SigningKeys), true
			err = k.add(keys, now, now)
		case err == nil && len(keys.Keys) == 0: // a restore has left none, so that every access token ends
			newest, reason, changed = "none", "the vault was restored", true
			err = k.add(keys, now, now)
		case err == nil:
			changed, err = change(keys, now)
		}
		if err != nil {
			return err
		}
		if changed {
			err := k.vault.Commit(ctx, k.writes(ctx, keys, newest, reason)...)
			if errors.Is(err, tokenstore.ErrConflict) {
				continue
			}
			if err != nil {
				return err
			}
		}
		return k.take(keys)
	}
}

// writes saves the keys, and records that there is a new one where there is.
func (k *keyring) writes(ctx context.Context, keys *tokenstore.SigningKeys, newest, reason string) []tokenstore.Write {
	made := keys.Keys[0]
	if made.ID == newest {
		return []tokenstore.Write{tokenstore.Save(keys)}
	}
	if newest == "" {
		reason = "the first one"
	}
	e := k.vault.NewEvent(ctx, tokenstore.EventSigningKeyRotated)
	e.Reason, e.Details = reason, map[string]string{"key": made.ID, "algorithm": made.Algorithm, "signs": made.Signs.UTC().Format(time.RFC3339)}
	return []tokenstore.Write{tokenstore.Save(keys), tokenstore.RecordEvent(e)}
}

// take puts the keys into use, unless newer ones are: what was read before a rotation may arrive here after it, and would
// bring back what that has dropped.
func (k *keyring) take(keys *tokenstore.SigningKeys) error {
	var set *keySet
	for {
		have := k.current.Load()
		if have != nil && have.version >= keys.Version {
			return nil
		}
		if set == nil {
			var err error
			if set, err = newKeySet(keys); err != nil {
				return err
			}
		}
		if k.current.CompareAndSwap(have, set) {
			return nil
		}
	}
}

// retire removes keys whose successor has been signing for longer than any token lives.
func (k *keyring) retire(keys *tokenstore.SigningKeys, now time.Time) bool {
	before := len(keys.Keys)
	for i := len(keys.Keys) - 1; i > 0; i-- {
		if now.After(keys.Keys[i-1].Signs.Add(keyOverlap)) {
			keys.Keys = slices.Delete(keys.Keys, i, i+1)
		}
	}
	return len(keys.Keys) != before
}

// add makes a key and puts it in front.
func (k *keyring) add(keys *tokenstore.SigningKeys, now, signs time.Time) error {
	private, err := generateKey(jose.SignatureAlgorithm(k.options.Algorithm))
	if err != nil {
		return fmt.Errorf("generate: %w", err)
	}
	jwk := jose.JSONWebKey{Key: private, Algorithm: k.options.Algorithm, Use: "sig"}
	thumbprint, err := jwk.Thumbprint(crypto.SHA256) // RFC 7638
	if err != nil {
		return fmt.Errorf("thumbprint: %w", err)
	}
	jwk.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
	encoded, err := jwk.MarshalJSON()
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	keys.Keys = slices.Insert(keys.Keys, 0, tokenstore.SigningKey{
		ID: jwk.KeyID, Algorithm: k.options.Algorithm, JWK: encoded, Created: now, Signs: signs,
	})
	return nil
}

func generateKey(algorithm jose.SignatureAlgorithm) (any, error) {
	switch algorithm {
	case jose.ES256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.RS256:
		return rsa.GenerateKey(rand.Reader, 2048)
	case jose.EdDSA:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	default:
		return nil, fmt.Errorf("algorithm %q is unknown; known are %s", algorithm, strings.Join(SigningAlgorithms(), ", "))
	}
}

func newKeySet(keys *tokenstore.SigningKeys) (*keySet, error) {
	set := &keySet{version: keys.Version, byHeader: make(map[string]*signingKey), public: &jose.JSONWebKeySet{}}
	for _, stored := range keys.Keys {
		var jwk jose.JSONWebKey
		if err := jwk.UnmarshalJSON(stored.JWK); err != nil {
			return nil, fmt.Errorf("key %s: unreadable", stored.ID) // the cause could quote the key
		}
		public := jwk.Public()
		if public.Key == nil || jwk.IsPublic() || !slices.Contains(SigningAlgorithms(), jwk.Algorithm) {
			return nil, fmt.Errorf("key %s: not a private key of a known algorithm", stored.ID)
		}
		key := &signingKey{stored: stored, algorithm: jose.SignatureAlgorithm(jwk.Algorithm), private: jwk.Key, public: public.Key}
		key.access, key.identity = key.header(jwk.KeyID, accessTokenType), key.header(jwk.KeyID, identityType)
		if err := key.probe(); err != nil {
			return nil, fmt.Errorf("key %s: %w", stored.ID, err)
		}
		set.byHeader[key.access] = key
		set.public.Keys = append(set.public.Keys, public)
		set.keys = append(set.keys, key)
	}
	return set, nil
}

// signingAt is the key that signs at a time: the newest whose time has come.
func (set *keySet) signingAt(now time.Time) *signingKey {
	for _, key := range set.keys {
		if !key.stored.Signs.After(now) {
			return key
		}
	}
	return set.keys[len(set.keys)-1]
}

// signing is the key that signs now.
func (k *keyring) signing() *signingKey { return k.current.Load().signingAt(k.vault.Now()) }

// public is the key set that others verify with.
func (k *keyring) public() *jose.JSONWebKeySet { return k.current.Load().public }

// SigningKey is what operators see of a signing key.
type SigningKey struct {
	ID        string    `json:"id"`
	Algorithm string    `json:"algorithm"`
	Created   time.Time `json:"created"`
	Signs     time.Time `json:"signs"`  // from when on it signs
	Active    bool      `json:"active"` // it is the one that signs now
}

// SigningKeys lists the signing keys, the newest first.
func (s *Server) SigningKeys() []SigningKey {
	set := s.keys.current.Load()
	active := set.signingAt(s.vault.Now())
	list := make([]SigningKey, 0, len(set.keys))
	for _, key := range set.keys {
		list = append(list, SigningKey{key.stored.ID, key.stored.Algorithm, key.stored.Created, key.stored.Signs, key == active})
	}
	return list
}

// RotateSigningKey makes a new signing key. It is published at once and signs ten minutes later, and the old one verifies
// until the last token that it signed has ended. With compromised, the new key signs now and the others are gone,
// and with them every access token and session token.
func (s *Server) RotateSigningKey(ctx context.Context, compromised bool) error {
	if err := s.keys.rotate(ctx, compromised); err != nil {
		return fmt.Errorf("rotate signing key: %w", err)
	}
	return nil
}
