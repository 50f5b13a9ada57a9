package tokenstore

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrExpired says that a message is genuine and too old.
var ErrExpired = errors.New("message has expired")

// Seal encrypts a message that a browser carries for the gateway, such as the request on a consent page, and gives it as
// base64url. It opens until expires, and only for the same purpose. After
// the vault is sealed anew it opens for Options.Messages.
func (v *Vault) Seal(p Purpose, plaintext []byte, expires time.Time) string {
	body := binary.BigEndian.AppendUint64(nil, uint64(expires.UnixMilli()))
	ring := v.ring()
	sealed := ring.sealing[useTxn].seal(ring.messageContext(p), append(body, plaintext...))
	return base64.RawURLEncoding.EncodeToString(sealed)
}

// OpenSealed opens a message that Seal made. Errors: ErrTampered, ErrExpired, and those of a store that does not answer when the key is not known.
func (v *Vault) OpenSealed(p Purpose, message string) ([]byte, error) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(message)
	if err != nil || strings.ContainsAny(message, "\r\n") { // which the decoder skips
		return nil, fmt.Errorf("%w: not base64url", ErrTampered)
	}
	ring := v.ring()
	body, err := ring.open(useTxn, ring.messageContext(p), sealed)
	if errors.Is(err, errUnknownKey) {
		if ring, err = v.newerRing(ring); err == nil {
			body, err = ring.open(useTxn, ring.messageContext(p), sealed)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(body) < 8 {
		return nil, ErrTampered
	}
	expires := time.UnixMilli(int64(binary.BigEndian.Uint64(body))) //nolint:gosec // written the same way
	if !v.now().Before(expires) {
		return nil, ErrExpired
	}
	return body[8:], nil
}

func (k *keyring) messageContext(p Purpose) sealContext {
	return sealContext{instance: k.instance, purpose: "message", id: string(p)}
}
