package tokenstore_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestMessageOpensForItsPurposeUntilItExpires(t *testing.T) {
	t.Parallel()
	at := now
	s, key := newStore(t), tokenstore.NewRootKey()
	v, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "hello", strings.Repeat("long ", 1000)} {
		message := v.Seal("consent", []byte(text), now.Add(time.Minute))
		if strings.Trim(message, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Errorf("message %q is not base64url", message)
		}
		for _, tt := range []struct {
			after time.Duration
			want  error
		}{{0, nil}, {time.Minute - time.Millisecond, nil}, {time.Minute, tokenstore.ErrExpired}, {time.Hour, tokenstore.ErrExpired}} {
			at = now.Add(tt.after)
			got, err := v.OpenSealed("consent", message)
			if !errors.Is(err, tt.want) || err == nil && string(got) != text || err != nil && got != nil {
				t.Errorf("after %v: OpenSealed = %.20q, %v; want %v", tt.after, got, err, tt.want)
			}
		}
		at = now
		for _, purpose := range []tokenstore.Purpose{"csrf", "", "consent2"} {
			if _, err := v.OpenSealed(purpose, message); !errors.Is(err, tokenstore.ErrTampered) {
				t.Errorf("OpenSealed for %q = %v; want ErrTampered", purpose, err)
			}
		}
		if _, err := openVault(t, newStore(t), key).OpenSealed("consent", message); !errors.Is(err, tokenstore.ErrTampered) {
			t.Errorf("OpenSealed by another vault of the same key = %v; want ErrTampered", err)
		}
	}
}

func TestChangedMessageIsRefused(t *testing.T) {
	t.Parallel()
	v, s := victims(t)
	message := v.Seal("consent", []byte("hello"), now.Add(time.Minute))
	row := stored(t, s, tokenstore.KindLogin, "login-1") // sealed by the key of messages
	changed := map[string]string{
		"empty": "", "padded": message + "=", "longer": message + "A", "line behind": message + "\n", "line within": message[:8] + "\r\n" + message[8:],
		"text": "hello", "value of a row": base64.RawURLEncoding.EncodeToString(row.Sealed),
	}
	for i := range message {
		other := byte('A')
		if message[i] == other {
			other = 'B'
		}
		changed["character "+message[i:]] = message[:i] + string(other) + message[i+1:]
		changed["cut at "+message[i:]] = message[:i]
	}
	for name, changed := range changed {
		if got, err := v.OpenSealed("consent", changed); !errors.Is(err, tokenstore.ErrTampered) || got != nil {
			t.Errorf("%.30s: OpenSealed = %q, %v; want ErrTampered", name, got, err)
		}
	}
}

func TestHashesAndDerivedValuesAreApart(t *testing.T) {
	t.Parallel()
	key := tokenstore.NewRootKey()
	v, other := openVault(t, newStore(t), key), openVault(t, newStore(t), key)
	seen := make(map[string]string)
	for name, value := range map[string]string{
		"hash":                     v.Hash("state", "x"),
		"hash of another secret":   v.Hash("state", "y"),
		"hash of nothing":          v.Hash("state", ""),
		"hash for another purpose": v.Hash("code", "x"),
		"hash with shifted border": v.Hash("stat", "ex"),
		"hash of another vault":    other.Hash("state", "x"),
		"derived":                  v.Derive("state", "x"),
		"derived of no parts":      v.Derive("state"),
		"derived of an empty part": v.Derive("state", ""),
		"derived of two parts":     v.Derive("state", "x", "y"),
		"derived of joined parts":  v.Derive("state", "xy"),
		"derived of shifted parts": v.Derive("state", "", "xy"),
		"derived for another":      v.Derive("code", "x", "y"),
		"derived of another vault": other.Derive("state", "x"),
	} {
		if same, ok := seen[value]; ok {
			t.Errorf("%s is the same as %s", name, same)
		}
		seen[value] = name
		if raw, err := base64.RawURLEncoding.Strict().DecodeString(value); err != nil || len(raw) != 32 {
			t.Errorf("%s is %q; want 32 bytes in base64url", name, value)
		}
	}
	hash, derived := v.Hash("state", "x"), v.Derive("csrf", "a", "b")
	if v.Hash("state", "x") != hash || v.Derive("csrf", "a", "b") != derived {
		t.Error("the same input gives another output")
	}
}

func FuzzOpenSealed(f *testing.F) {
	v := openVault(f, newStore(f), tokenstore.NewRootKey())
	message := v.Seal("consent", []byte("hello"), now.Add(time.Minute))
	f.Add(message)
	f.Add(message[:100])
	f.Add(base64.RawURLEncoding.EncodeToString([]byte("G\x01\x01 short")))
	f.Fuzz(func(t *testing.T, text string) {
		got, err := v.OpenSealed("consent", text)
		if (err == nil) != (text == message) || err == nil && !bytes.Equal(got, []byte("hello")) || err != nil && !errors.Is(err, tokenstore.ErrTampered) {
			t.Errorf("OpenSealed(%q) = %q, %v", text, got, err)
		}
	})
}
