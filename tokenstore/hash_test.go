package tokenstore

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// TestHashKey has many make keyed hashes with one key at once, long and short ones in turns. Each is the HMAC of its own parts.
func TestHashKey(t *testing.T) {
	t.Parallel()
	secret := []byte(strings.Repeat("k", 32))
	key := newHashKey(secret)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 200 {
				parts := []string{"purpose", fmt.Sprint(i), strings.Repeat("x", n*i)}[:1+n%3]
				h := hmac.New(sha256.New, secret)
				for _, part := range parts {
					h.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(part))), part...))
				}
				if got, want := key.sum(parts...), base64.RawURLEncoding.EncodeToString(h.Sum(nil)); got != want {
					t.Errorf("%.40q: %s, want %s", parts, got, want)
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkHash(b *testing.B) {
	key := newHashKey([]byte(strings.Repeat("k", 32)))
	b.ReportAllocs()
	for b.Loop() {
		key.sum("word", "ada.number@example.test")
	}
}
