package tokenstore

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
)

// Purpose keeps hashes, derived values and messages of different kinds apart. It is a constant of the code that uses it.
type Purpose string

// Hash is the keyed hash under which a secret is stored and found: HMAC-SHA256 with a key of the vault, 43 base64url
// characters. Two purposes never give the same hash.
func (v *Vault) Hash(p Purpose, secret string) string {
	return mac(v.ring().index, string(p), secret)
}

// Derive makes a value that only the holder of this vault's keys can make, always the same from the same parts: 43
// base64url characters, with a key apart from that of Hash.
func (v *Vault) Derive(p Purpose, parts ...string) string {
	return mac(v.ring().derive, append([]string{string(p)}, parts...)...)
}

func mac(key []byte, parts ...string) string {
	h := hmac.New(sha256.New, key)
	var b []byte
	for _, part := range parts {
		b = appendSized(b[:0], part)
		h.Write(b)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
