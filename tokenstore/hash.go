package tokenstore

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"sync"
)

// Purpose keeps hashes, derived values and messages of different kinds apart. It is a constant of the code that uses it.
type Purpose string

// Hash is the keyed hash under which a secret is stored and found: HMAC-SHA256 with a key of the vault, 43 base64url
// characters. Two purposes never give the same hash.
func (v *Vault) Hash(p Purpose, secret string) string {
	return v.ring().index.sum(string(p), secret)
}

// Derive makes a value that only the holder of this vault's keys can make, always the same from the same parts: 43
// base64url characters, with a key apart from that of Hash.
func (v *Vault) Derive(p Purpose, parts ...string) string {
	return v.ring().derive.sum(append([]string{string(p)}, parts...)...)
}

// hashKey is a key of keyed hashes. A grant that is saved takes some dozens of them, so the key is put into the hash once and not for each.
type hashKey struct {
	secret []byte
	idle   sync.Pool // of *keyedHash
}

// keyedHash is an HMAC that has its key, and room for what is written to it and comes out.
type keyedHash struct {
	hash.Hash
	part, sum, text []byte
}

func newHashKey(secret []byte) *hashKey {
	k := &hashKey{secret: secret}
	k.idle.New = func() any { return &keyedHash{Hash: hmac.New(sha256.New, k.secret)} }
	return k
}

// sum is the hash of the parts, in base64url.
func (k *hashKey) sum(parts ...string) string {
	h := k.idle.Get().(*keyedHash) //nolint:forcetypeassert // nothing else is in there
	for _, part := range parts {
		h.part = appendSized(h.part[:0], part)
		_, _ = h.Write(h.part) // never fails
	}
	h.sum = h.Sum(h.sum[:0])
	h.text = base64.RawURLEncoding.AppendEncode(h.text[:0], h.sum)
	text := string(h.text)
	h.Reset() // what was hashed may be a secret
	clear(h.part[:cap(h.part)])
	k.idle.Put(h)
	return text
}
