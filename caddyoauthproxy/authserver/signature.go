package authserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// header is the protected header of what the key signs, in base64url (RFC 7515 §4.1). Tokens are known by it: it is never written in another way.
func (k *signingKey) header(id, kind string) string {
	text, _ := json.Marshal(struct { // strings always become JSON
		Algorithm string `json:"alg"`
		ID        string `json:"kid"`
		Type      string `json:"typ"`
	}{string(k.algorithm), id, kind})
	return base64.RawURLEncoding.EncodeToString(text)
}

// sign makes a compact JWS (RFC 7515 §7.1) of one of the key's headers and a payload. The same payload always gets the same signature: a
// client that repeats a request because the answer was lost gets the very same token.
func (k *signingKey) sign(header string, payload []byte) (string, error) {
	encoding := base64.RawURLEncoding
	text := make([]byte, 0, len(header)+len("..")+encoding.EncodedLen(len(payload))+encoding.EncodedLen(maxSignature))
	text = encoding.AppendEncode(append(append(text, header...), '.'), payload)
	signature, err := k.signature(text)
	if err != nil {
		return "", err
	}
	return string(encoding.AppendEncode(append(text, '.'), signature)), nil
}

// maxSignature is the length of the longest signature, of RS256.
const maxSignature = 256

// signature is that of RFC 7518 §3, or RFC 8037 §3.1, for the kind of key that it is.
func (k *signingKey) signature(input []byte) ([]byte, error) {
	digest := sha256.Sum256(input)
	switch private := k.private.(type) {
	case *ecdsa.PrivateKey:
		return signatureES256(private, digest[:])
	case *rsa.PrivateKey:
		return rsa.SignPKCS1v15(nil, private, crypto.SHA256, digest[:]) // which needs no randomness
	case ed25519.PrivateKey:
		return ed25519.Sign(private, input), nil
	default:
		return nil, errors.ErrUnsupported
	}
}

// signatureES256 is r and s, 32 bytes each (RFC 7518 §3.4).
func signatureES256(private *ecdsa.PrivateKey, digest []byte) ([]byte, error) {
	if private.Curve != elliptic.P256() {
		return nil, errors.ErrUnsupported
	}
	der, err := private.Sign(nil, digest, crypto.SHA256) // without randomness it is deterministic (RFC 6979)
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, err
	}
	out := make([]byte, 64)
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out, nil
}

// verifies reports whether the key made the signature of that input.
func (k *signingKey) verifies(input, signature []byte) bool {
	digest := sha256.Sum256(input)
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() || len(signature) != 64 {
			return false
		}
		return ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	case ed25519.PublicKey:
		return len(public) == ed25519.PublicKeySize && ed25519.Verify(public, input, signature)
	default:
		return false
	}
}

// probe signs something, and verifies it as others do, and as it is done here: a key that is not for its algorithm fails.
func (k *signingKey) probe() error {
	text, err := k.sign(k.access, []byte("{}"))
	if err != nil {
		return err
	}
	jws, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{k.algorithm})
	if err != nil {
		return err
	}
	if _, err = jws.Verify(k.public); err != nil {
		return err
	}
	dot := strings.LastIndexByte(text, '.')
	if signature, ok := canonicalSegment(text[dot+1:]); !ok || !k.verifies([]byte(text[:dot]), signature) {
		return errors.New("its signatures are not verified")
	}
	return nil
}
