package tokenstore

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// RootKey is a key that the operator keeps: 32 random bytes outside the vault. It encrypts the vault's own
// keys and nothing else. It does not print itself.
type RootKey [32]byte

// redacted is what a RootKey looks like to everything that formats values.
const redacted = "[redacted]"

// ParseRootKey reads a key written as base64 (either alphabet, padded or not) or as 64 hex digits, with at
// most one newline behind it, and refuses what is not 32 random bytes. Errors do not quote the text.
func ParseRootKey(text string) (RootKey, error) {
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	raw, ok := decodeKey(text)
	if !ok || len(raw) != len(RootKey{}) {
		return RootKey{}, errors.New("encryption key: not 32 bytes in base64 or hex; make a key with: openssl rand -base64 32")
	}
	if weak(raw) {
		return RootKey{}, errors.New("encryption key: text or a pattern instead of 32 random bytes; make a key with: openssl rand -base64 32")
	}
	return RootKey(raw), nil
}

func decodeKey(text string) ([]byte, bool) {
	if strings.ContainsAny(text, "\r\n") { // which the base64 decoder skips
		return nil, false
	}
	if len(text) == 64 {
		raw, err := hex.DecodeString(text)
		return raw, err == nil
	}
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		encoding = base64.RawURLEncoding
	}
	raw, err := encoding.Strict().DecodeString(strings.TrimSuffix(text, "="))
	return raw, err == nil
}

// weak finds keys that somebody typed: a passphrase in base64, and patterns that repeat. The chance
// that a random key is one of them is below 2^-44.
func weak(raw []byte) bool {
	if !slices.ContainsFunc(raw, func(b byte) bool { return (b < ' ' || b > '~') && !strings.ContainsRune("\t\r\n", rune(b)) }) {
		return true
	}
	for period := 1; period <= len(raw)/2; period++ {
		if bytes.Equal(raw[period:], raw[:len(raw)-period]) {
			return true
		}
	}
	return false
}

// NewRootKey makes a random key.
func NewRootKey() RootKey {
	var k RootKey
	_, _ = rand.Read(k[:]) // never fails, see crypto/rand
	return k
}

// Text is the key in base64, for writing it to a file. It is the only way out.
func (k RootKey) Text() string { return base64.StdEncoding.EncodeToString(k[:]) }

// String hides the key.
func (RootKey) String() string { return redacted }

// Format hides the key from every verb of fmt.
func (RootKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText hides the key from encoders, JSON among them.
func (RootKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// id names the key in sealed values without saying anything about it.
func (k RootKey) id() keyID {
	sum := sha256.Sum256(append([]byte("gw.vault/root/v1"), k[:]...))
	return keyID(sum[:8])
}
