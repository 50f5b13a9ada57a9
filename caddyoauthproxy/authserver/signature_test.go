package authserver

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// keyOf is a new key of an algorithm, and what is stored of it.
func keyOf(t testing.TB, algorithm string) (*signingKey, jose.JSONWebKey) {
	t.Helper()
	k, keys := &keyring{options: Signing{Algorithm: algorithm}}, &tokenstore.SigningKeys{Meta: tokenstore.Meta{Version: 1}}
	if err := k.add(keys, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	set, err := newKeySet(keys)
	if err != nil {
		t.Fatal(err)
	}
	var stored jose.JSONWebKey
	if err := stored.UnmarshalJSON(keys.Keys[0].JWK); err != nil {
		t.Fatal(err)
	}
	return set.keys[0], stored
}

// TestSignaturesAreThoseOfTheLibrary holds tokens against those that go-jose makes: their headers are the same to the byte, by which tokens of older
// releases are known, and so is all of them where there is but one signature.
func TestSignaturesAreThoseOfTheLibrary(t *testing.T) {
	t.Parallel()
	for _, algorithm := range SigningAlgorithms() {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			key, stored := keyOf(t, algorithm)
			payload := []byte(`{"iss":"https://gateway.example.com"}`)
			for kind, header := range map[jose.ContentType]string{accessTokenType: key.access, identityType: key.identity} {
				token, err := key.sign(header, payload)
				if err != nil {
					t.Fatal(err)
				}
				signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.algorithm, Key: stored}, (&jose.SignerOptions{}).WithType(kind))
				if err != nil {
					t.Fatal(err)
				}
				jws, err := signer.Sign(payload)
				if err != nil {
					t.Fatal(err)
				}
				theirs, err := jws.CompactSerialize()
				if err != nil {
					t.Fatal(err)
				}
				if algorithm == string(jose.ES256) { // which has many signatures of one payload
					token, theirs = token[:strings.LastIndexByte(token, '.')], theirs[:strings.LastIndexByte(theirs, '.')]
				}
				if token != theirs {
					t.Errorf("%s:\n%s, of the library\n%s", kind, token, theirs)
				}
			}
			token, err := key.sign(key.access, payload)
			if again, _ := key.sign(key.access, payload); err != nil || again != token {
				t.Errorf("the same payload has the tokens\n%s and\n%s", token, again)
			}
			jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{key.algorithm})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := jws.Verify(stored.Public().Key); err != nil || string(got) != string(payload) {
				t.Errorf("verified: %s, %v", got, err)
			}
		})
	}
}

func TestSignatureThatIsAnotherByABitIsNone(t *testing.T) {
	t.Parallel()
	for _, algorithm := range SigningAlgorithms() {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			key, stored := keyOf(t, algorithm)
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.algorithm, Key: stored}, nil)
			if err != nil {
				t.Fatal(err)
			}
			jws, err := signer.Sign([]byte(`{"iss":"https://gateway.example.com"}`))
			if err != nil {
				t.Fatal(err)
			}
			text, err := jws.CompactSerialize()
			if err != nil {
				t.Fatal(err)
			}
			input, signature := []byte(text[:strings.LastIndexByte(text, '.')]), jws.Signatures[0].Signature
			if !key.verifies(input, signature) {
				t.Fatal("the library's own is not verified")
			}
			for what, part := range map[string][]byte{"input": input, "signature": signature} {
				for i := range part {
					part[i] ^= 1
					if key.verifies(input, signature) {
						t.Errorf("verified with byte %d of the %s changed", i, what)
					}
					part[i] ^= 1
				}
			}
			for _, wrong := range [][]byte{nil, {}, signature[1:], signature[:len(signature)-1], append(slices.Clone(signature), 0), append([]byte{0}, signature...), make([]byte, len(signature))} {
				if key.verifies(input, wrong) {
					t.Errorf("verified: %x", wrong)
				}
			}
			for _, of := range SigningAlgorithms() {
				if other, _ := keyOf(t, of); other.verifies(input, signature) {
					t.Errorf("another key, for %s, verifies it", of)
				}
			}
		})
	}
}

// TestKeyThatDoesNotSignForItsAlgorithmIsRefused has a key be stored under another algorithm's name.
func TestKeyThatDoesNotSignForItsAlgorithmIsRefused(t *testing.T) {
	t.Parallel()
	for _, algorithm := range SigningAlgorithms() {
		_, stored := keyOf(t, algorithm)
		for _, named := range SigningAlgorithms() {
			stored.Algorithm = named
			text, err := stored.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			keys := &tokenstore.SigningKeys{Keys: []tokenstore.SigningKey{{ID: stored.KeyID, Algorithm: named, JWK: text}}}
			if _, err := newKeySet(keys); (err == nil) != (algorithm == named) {
				t.Errorf("a key for %s that is named %s: %v", algorithm, named, err)
			}
		}
	}
}

func BenchmarkSign(b *testing.B) {
	for _, algorithm := range SigningAlgorithms() {
		b.Run(algorithm, func(b *testing.B) {
			key, _ := keyOf(b, algorithm)
			claims := claimsOf(1, time.Now())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := key.signClaims(key.access, claims); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
