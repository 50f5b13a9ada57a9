package tokenstore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// knownAnswer was made apart from this package, with AES-256-GCM, the key 00 01 … 1f and the nonce "twelve bytes".
const knownAnswer = "" +
	"470101a0a1a2a3a4a5a6a77477656c7665206279746573aa85e3e71f78c8ce7cdb0136f5d5d97a98b266568fecd5fc1c79c3" +
	"a8ee42d34880208bb828c25b7746048a03a06b1d4706f9b941b59de770d631f960f42869f1a088a5c7b6be6b845714cec6f9" +
	"1647fb7ab5619c6fb4b623f95a84216f1012ea268265ae43cba7887c9505d78f14404f3e6eadf8f18e1f3b734c14e4e720a5" +
	"bcd9a6a5cd0209e30a6ff21b029d08f7347f9c63ec04db8237e72ecfe349be88b403242a685c5e4b6647e249adcfa0c961e1" +
	"aec2c3853d6d69045bf3cca7c23a71e4aef317a04abefbbe861f69402110f7330a9e3a4934f796e514ba003594ee4592472f" +
	"9564bc773ed5ff25ca9a35090fd80ee78528332c4bcd61030ca877c1410086739b70b19e9fb68b2448ac2f5986"

const knownPlaintext = `{"record":"known answer"}`

func knownKey(t testing.TB) sealKey {
	t.Helper()
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = byte(i)
	}
	k, err := newSealKey(keyID{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7}, secret)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func knownContext() sealContext {
	return sealContext{
		instance: "00112233445566778899aabbccddeeff", purpose: useGrant, kind: KindAccount, id: "acct-1", version: 7,
	}
}

// unseal does as the keyring does, with one key.
func unseal(k sealKey, c sealContext, sealed []byte) ([]byte, error) {
	ring := keyring{opening: map[string]map[keyID]sealKey{useGrant: {k.id: k}}}
	return ring.open(useGrant, c, sealed)
}

func TestSealedFormatIsAsPublished(t *testing.T) {
	t.Parallel()
	sealed, err := hex.DecodeString(knownAnswer)
	if err != nil {
		t.Fatal(err)
	}
	got, err := unseal(knownKey(t), knownContext(), sealed)
	if err != nil || string(got) != knownPlaintext {
		t.Fatalf("known value opens to %q, %v; want %q", got, err, knownPlaintext)
	}
	ours := knownKey(t).seal(knownContext(), []byte(knownPlaintext))
	if len(ours) != len(sealed) || !bytes.Equal(ours[:headerSize], sealed[:headerSize]) {
		t.Errorf("sealed value begins with %x in %d bytes; want %x in %d", ours[:headerSize], len(ours), sealed[:headerSize], len(sealed))
	}
}

func TestT73EveryByteOfASealedValueCounts(t *testing.T) {
	t.Parallel()
	k, c := knownKey(t), knownContext()
	sealed := k.seal(c, []byte(knownPlaintext))
	refuse := func(what string, i int, value []byte) {
		t.Helper()
		if got, err := unseal(k, c, value); !errors.Is(err, ErrTampered) || got != nil {
			t.Errorf("%s %d: opens to %q, %v; want ErrTampered", what, i, got, err)
		}
	}
	for i := range sealed {
		for _, bit := range []byte{1, 0x80} {
			flipped := bytes.Clone(sealed)
			flipped[i] ^= bit
			refuse("flipped byte", i, flipped)
		}
		refuse("cut at", i, sealed[:i])
	}
	refuse("one more byte", len(sealed), append(bytes.Clone(sealed), 0))
	refuse("doubled", 2, append(bytes.Clone(sealed), sealed...))
	if _, err := unseal(k, c, sealed); err != nil {
		t.Fatalf("the value itself: %v", err)
	}
}

func TestT73UnknownFormatIsNamed(t *testing.T) {
	t.Parallel()
	k, c := knownKey(t), knownContext()
	sealed := k.seal(c, []byte(knownPlaintext))
	with := func(i int, b byte) []byte {
		value := bytes.Clone(sealed)
		value[i] = b
		return value
	}
	for want, value := range map[string][]byte{
		"not a sealed value":            []byte(`{"access_token":"planted"}`),
		"format version 0":              with(1, 0),
		"format version 2":              with(1, 2),
		"cipher suite 2":                with(2, 2),
		"its key is not in the keyring": with(5, 0),
	} {
		_, err := unseal(k, c, value)
		if !errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want ErrTampered that says %q", err, want)
		}
	}
	if _, err := unseal(k, c, nil); !errors.Is(err, ErrTampered) {
		t.Errorf("nothing: %v; want ErrTampered", err)
	}
}

func TestT71SealedValueOpensOnlyInItsPlace(t *testing.T) {
	t.Parallel()
	k := knownKey(t)
	sealed := k.seal(knownContext(), []byte(knownPlaintext))
	for name, edit := range map[string]func(*sealContext){
		"another vault":    func(c *sealContext) { c.instance = strings.Repeat("0", 32) },
		"another purpose":  func(c *sealContext) { c.purpose = useTxn },
		"another kind":     func(c *sealContext) { c.kind = KindGrant },
		"another id":       func(c *sealContext) { c.id = "acct-2" },
		"another version":  func(c *sealContext) { c.version = 6 },
		"a shifted border": func(c *sealContext) { c.kind, c.id = "accounta", "cct-1" },
	} {
		c := knownContext()
		edit(&c)
		if _, err := unseal(k, c, sealed); !errors.Is(err, ErrTampered) {
			t.Errorf("%s: %v; want ErrTampered", name, err)
		}
	}
}

func TestSealedValueHidesTheLength(t *testing.T) {
	t.Parallel()
	k, c := knownKey(t), knownContext()
	for size, want := range map[int]int{0: 256, 1: 256, 252: 256, 253: 512, 508: 512, 509: 768} {
		plain := bytes.Repeat([]byte{7}, size)
		sealed := k.seal(c, plain)
		if got := len(sealed) - headerSize - 12 - 16; got != want {
			t.Errorf("%d bytes are padded to %d; want %d", size, got, want)
		}
		if got, err := unseal(k, c, sealed); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes come back as %d, %v", size, len(got), err)
		}
	}
}

func TestT74NoncesDoNotRepeat(t *testing.T) {
	t.Parallel()
	const n = 100_000
	k, c := knownKey(t), knownContext()
	seen := make(map[[12]byte]bool, n)
	for range n {
		seen[[12]byte(k.seal(c, nil)[headerSize:])] = true
	}
	if len(seen) != n {
		t.Errorf("%d distinct nonces in %d values", len(seen), n)
	}
}

func FuzzUnseal(f *testing.F) {
	k, c := knownKey(f), knownContext()
	sealed := k.seal(c, []byte(knownPlaintext))
	f.Add(sealed)
	f.Add(sealed[:headerSize])
	f.Add([]byte("G\x01\x01"))
	f.Fuzz(func(t *testing.T, value []byte) {
		got, err := unseal(k, c, value)
		if err == nil && string(got) != knownPlaintext {
			t.Errorf("%x opens to %q", value, got)
		}
		if err != nil && !errors.Is(err, ErrTampered) {
			t.Errorf("error %v is not ErrTampered", err)
		}
	})
}
