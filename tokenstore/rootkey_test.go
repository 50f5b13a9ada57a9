package tokenstore

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// oddKey is a key whose base64 has characters of which the two alphabets differ.
func oddKey() RootKey {
	var k RootKey
	for i := range k {
		k[i] = byte(0xfb + 7*i)
	}
	return k
}

func TestRootKeyIsReadInEveryUsualSpelling(t *testing.T) {
	t.Parallel()
	want := oddKey()
	for name, text := range map[string]string{
		"base64":              base64.StdEncoding.EncodeToString(want[:]),
		"base64 unpadded":     base64.RawStdEncoding.EncodeToString(want[:]),
		"base64url":           base64.URLEncoding.EncodeToString(want[:]),
		"base64url unpadded":  base64.RawURLEncoding.EncodeToString(want[:]),
		"hex":                 hex.EncodeToString(want[:]),
		"upper hex":           strings.ToUpper(hex.EncodeToString(want[:])),
		"a line":              want.Text() + "\n",
		"a line of Windows":   want.Text() + "\r\n",
		"what Text has given": want.Text(),
	} {
		if got, err := ParseRootKey(text); err != nil || got != want {
			t.Errorf("%s: ParseRootKey = %v; want the key", name, err)
		}
	}
}

func TestT75WeakRootKeysAreRefused(t *testing.T) {
	t.Parallel()
	encode := func(raw string) string { return base64.StdEncoding.EncodeToString([]byte(raw)) }
	key := NewRootKey()
	for name, text := range map[string]string{
		"nothing":                "",
		"a newline":              "\n",
		"a passphrase":           "changeme-changeme-changeme-chang",
		"31 bytes":               encode(string(key[:31])),
		"33 bytes":               encode(string(key[:]) + "x"),
		"16 bytes in hex":        hex.EncodeToString(key[:16]),
		"63 hex digits":          hex.EncodeToString(key[:])[:63],
		"64 that are not hex":    strings.Repeat("g", 64),
		"zeros":                  encode(strings.Repeat("\x00", 32)),
		"zeros in hex":           strings.Repeat("0", 64),
		"one byte repeated":      encode(strings.Repeat("\xf3", 32)),
		"two bytes repeated":     encode(strings.Repeat("\xf3\x01", 16)),
		"16 bytes repeated":      encode(strings.Repeat(string(key[:16]), 2)),
		"a passphrase in base64": encode("correct horse battery staple 123"),
		"and with a newline":     encode("correct horse battery staple 12\n"),
		"two lines":              key.Text() + "\n\n",
		"a line inside":          key.Text()[:20] + "\n" + key.Text()[20:],
		"a space before":         " " + key.Text(),
		"too much padding":       key.Text() + "=",
		"both alphabets":         strings.Replace(base64.StdEncoding.EncodeToString(oddKeyBytes()), "+", "-", 1),
		"unused bits set":        key.Text()[:42] + "/=",
	} {
		k, err := ParseRootKey(text)
		if err == nil || k != (RootKey{}) {
			t.Errorf("%s: accepted", name)
			continue
		}
		if !strings.Contains(err.Error(), "openssl rand -base64 32") {
			t.Errorf("%s: %q does not say how to make a key", name, err)
		}
		if text := strings.TrimSpace(text); text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%s: %q quotes the key", name, err)
		}
	}
}

// oddKeyBytes has both of the characters of which the alphabets differ.
func oddKeyBytes() []byte {
	return append([]byte{0xfb, 0xef, 0xbe, 0xff, 0xff, 0xff}, bytes.Repeat([]byte{1, 2}, 13)...)
}

func TestNewRootKeyIsAccepted(t *testing.T) {
	t.Parallel()
	for range 100 {
		k := NewRootKey()
		if got, err := ParseRootKey(k.Text()); err != nil || got != k {
			t.Fatalf("ParseRootKey of a new key: %v", err)
		}
	}
}

func TestRootKeyDoesNotPrintItself(t *testing.T) {
	t.Parallel()
	k := oddKey()
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%T %v"} {
		args := []any{k}
		if strings.Count(verb, "%") == 2 {
			args = append(args, &k)
		}
		fmt.Fprintf(&out, verb+"\n", args...)
	}
	fmt.Fprintf(&out, "%v %+v %#v", Options{Keys: []RootKey{k}}, []*RootKey{&k}, map[string]RootKey{"k": k})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("key", "key", k, "keys", []RootKey{k})
	slog.New(slog.NewTextHandler(&out, nil)).Info("key", "key", k, "keys", []RootKey{k})
	if err := json.NewEncoder(&out).Encode(map[string]any{"key": k, "pointer": &k, "keys": []RootKey{k}}); err != nil {
		t.Fatal(err)
	}
	for _, spelling := range []string{
		k.Text(), base64.RawURLEncoding.EncodeToString(k[:]), hex.EncodeToString(k[:]), fmt.Sprintf("%X", k[:]),
		fmt.Sprint(k[:4])[1:10], fmt.Sprintf("%#v", k[:3])[7:20], string(k[:]),
	} {
		if strings.Contains(out.String(), spelling) {
			t.Errorf("the key is printed as %q in\n%s", spelling, out.String())
		}
	}
	if n := strings.Count(out.String(), redacted); n < 15 {
		t.Errorf("%q stands %d times in the output; want it for each key\n%s", redacted, n, out.String())
	}
}

func FuzzParseRootKey(f *testing.F) {
	k := oddKey()
	for _, seed := range []string{"", k.Text(), hex.EncodeToString(k[:]), k.Text() + "\n", strings.Repeat("A", 44)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseRootKey(text)
		if err != nil {
			if k != (RootKey{}) {
				t.Error("a key beside an error")
			}
			return
		}
		if again, err := ParseRootKey(k.Text()); err != nil || again != k {
			t.Errorf("key of %q does not read back: %v", text, err)
		}
	})
}
