package tokenstore

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrTampered says that a sealed value could not be opened: it was changed, moved, cut, or sealed by a key that the
// vault does not have. There is no fallback.
var ErrTampered = errors.New("sealed value does not open")

// A sealed value is
//
//	'G' | version 1 | suite 1 | key id (8 bytes) | nonce (12) | ciphertext | tag (16)
//
// with AES-256-GCM as suite 1. The additional data is the header followed by the context, each
// part of which is preceded by its length, so that no two contexts read the same.
const (
	sealMagic   = 'G'
	sealVersion = 1
	suiteAESGCM = 1
	headerSize  = 3 + 8
	padding     = 256

	// usualAdditional is how long additional data is in general, in bytes.
	usualAdditional = 192
)

// keyID names a key in the header of the values that it sealed.
type keyID [8]byte

// sealKey is a key ready for use. The nonce is made inside the API, so that none can be used twice
// by mistake; one key is good for 2^32 values.
type sealKey struct {
	id   keyID
	aead cipher.AEAD
}

func newSealKey(id keyID, secret []byte) (sealKey, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return sealKey{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return sealKey{}, err
	}
	return sealKey{id, aead}, nil
}

// sealContext is what a sealed value is bound to.
type sealContext struct {
	instance string // which vault
	purpose  string // what for
	kind     Kind
	id       string // which row
	version  uint64 // which version of it
}

func (c sealContext) additionalData(header []byte) []byte {
	ad := append(make([]byte, 0, usualAdditional), header...)
	for _, part := range [...]string{"gw.vault", c.instance, c.purpose, string(c.kind), c.id} {
		ad = appendSized(ad, part)
	}
	return binary.BigEndian.AppendUint64(ad, c.version)
}

// appendSized appends a part with its length before it.
func appendSized(b []byte, part string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(part))) //nolint:gosec // parts are short
	return append(b, part...)
}

// seal encrypts, after padding to a multiple of 256 bytes: the length says nothing about the provider.
func (k sealKey) seal(c sealContext, plaintext []byte) []byte {
	padded := make([]byte, (4+len(plaintext)+padding-1)/padding*padding)
	binary.BigEndian.PutUint32(padded, uint32(len(plaintext))) //nolint:gosec // a record is far smaller
	copy(padded[4:], plaintext)
	sealed := make([]byte, 0, headerSize+len(padded)+k.aead.Overhead())
	sealed = append(append(sealed, sealMagic, sealVersion, suiteAESGCM), k.id[:]...)
	return k.aead.Seal(sealed, nil, padded, c.additionalData(sealed)) //nolint:gosec // the AEAD makes the nonce itself
}

// sealedBy reads the key id of a sealed value.
func sealedBy(sealed []byte) (keyID, error) {
	switch {
	case len(sealed) < headerSize || sealed[0] != sealMagic:
		return keyID{}, fmt.Errorf("%w: not a sealed value", ErrTampered)
	case sealed[1] != sealVersion:
		return keyID{}, fmt.Errorf("%w: format version %d is unknown; the vault may be of a newer release", ErrTampered, sealed[1])
	case sealed[2] != suiteAESGCM:
		return keyID{}, fmt.Errorf("%w: cipher suite %d is unknown; the vault may be of a newer release", ErrTampered, sealed[2])
	}
	return keyID(sealed[3:headerSize]), nil
}

// open decrypts a value that sealedBy has found to be this key's.
func (k sealKey) open(c sealContext, sealed []byte) ([]byte, error) {
	header, body := sealed[:headerSize:headerSize], sealed[headerSize:]
	padded, err := k.aead.Open(nil, nil, body, c.additionalData(header))
	if err != nil || len(padded) < 4 {
		return nil, ErrTampered
	}
	n := binary.BigEndian.Uint32(padded)
	if int64(n) > int64(len(padded)-4) {
		return nil, ErrTampered
	}
	return padded[4 : 4+n], nil
}
