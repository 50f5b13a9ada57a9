package authserver

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// claimsOf are those of one of many tokens.
func claimsOf(i int, expires time.Time) *Claims {
	return &Claims{
		Issuer: "https://gateway.example.com", Audience: "https://gateway.example.com/jira/mcp", Subject: fmt.Sprintf("subject-%035d", i),
		ClientID: fmt.Sprintf("gateway_%018d", i), Scope: "mcp", JTI: fmt.Sprintf("jti-%022d", i), GrantID: fmt.Sprintf("grant-%020d", i),
		IssuedAt: 1, Expires: expires.Unix(),
	}
}

func sumOf(i int) *[sha256.Size]byte {
	sum := sha256.Sum256(fmt.Append(nil, i))
	return &sum
}

func TestVerifiedTokensKeepWhatTheyWereGiven(t *testing.T) {
	t.Parallel()
	var v verifiedTokens
	now := time.Now()
	for i := range 1000 {
		v.put(sumOf(i), claimsOf(i, now.Add(time.Hour)), now)
	}
	for i := range 1000 {
		if c := v.get(sumOf(i)); c == nil || *c != *claimsOf(i, now.Add(time.Hour)) {
			t.Fatalf("token %d has %+v", i, c)
		}
	}
	if c := v.get(sumOf(1000)); c != nil {
		t.Errorf("one that was never there has %+v", c)
	}
	near := *sumOf(0)
	near[sha256.Size-1] ^= 1
	if c := v.get(&near); c != nil {
		t.Errorf("one in the same set has %+v", c)
	}
}

func TestVerifiedTokensThatExpiredGiveWayFirst(t *testing.T) {
	t.Parallel()
	var v verifiedTokens
	now := time.Now()
	inSet := func(i byte) *[sha256.Size]byte { return &[sha256.Size]byte{4: i, sha256.Size - 1: 3} } // all want the same place
	for i := range byte(verifiedWays) {
		life := time.Hour
		if i == 5 {
			life = -time.Second
		}
		v.put(inSet(i), claimsOf(int(i), now.Add(life)), now)
	}
	v.put(inSet(100), claimsOf(100, now.Add(time.Hour)), now)
	for i := range byte(verifiedWays) {
		if there := v.get(inSet(i)) != nil; there != (i != 5) {
			t.Errorf("token %d is there: %v; want all but the one that has expired", i, there)
		}
	}
	v.put(inSet(101), claimsOf(101, now.Add(time.Hour)), now)
	left := 0
	for i := range byte(102) {
		if v.get(inSet(i)) != nil {
			left++
		}
	}
	if left != verifiedWays || v.get(inSet(101)) == nil {
		t.Errorf("%d tokens in a full set, the last: %v; want %d with it", left, v.get(inSet(101)), verifiedWays)
	}
}

func TestVerifiedTokensOfUnusualSizeAreNotKept(t *testing.T) {
	t.Parallel()
	var v verifiedTokens
	now := time.Now()
	c := claimsOf(1, now.Add(time.Hour))
	c.ClientID = strings.Repeat("c", maxVerifiedText)
	v.put(sumOf(1), c, now)
	if v.get(sumOf(1)) != nil {
		t.Error("it is kept")
	}
}

func TestVerifiedTokensAreReadAndReplacedAtOnce(t *testing.T) {
	t.Parallel()
	var v verifiedTokens
	now := time.Now()
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for n := range 2000 {
				i := (n + 17*worker) % 64
				sum := &[sha256.Size]byte{4: byte(i)} // of one set
				v.put(sum, claimsOf(i, now.Add(time.Hour)), now)
				if c := v.get(sum); c != nil && *c != *claimsOf(i, now.Add(time.Hour)) {
					t.Errorf("token %d has %+v", i, c)
				}
			}
		})
	}
	group.Wait()
}

// keysOf is a keyring of one new key.
func keysOf(t testing.TB) *keyring {
	t.Helper()
	k := &keyring{looked: func(bool) {}, options: Signing{Algorithm: "ES256"}}
	keys := &tokenstore.SigningKeys{Meta: tokenstore.Meta{Version: 1}}
	if err := k.add(keys, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	set, err := newKeySet(keys)
	if err != nil {
		t.Fatal(err)
	}
	k.current.Store(set)
	return k
}

// tokenOf is a token, which the keyring has verified if remembered.
func tokenOf(t testing.TB, k *keyring, remembered bool) string {
	t.Helper()
	set, now := k.current.Load(), time.Now()
	token, err := set.keys[0].signClaims(set.keys[0].access, claimsOf(1, now.Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := set.verify(token)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256([]byte(token)); remembered {
		set.verified.put(&sum, c, now)
	}
	return token
}

func TestVerifyingARememberedTokenTakesNoMemory(t *testing.T) {
	k := keysOf(t)
	remembered := 0
	k.looked = func(yes bool) {
		if yes {
			remembered++
		}
	}
	token := tokenOf(t, k, true)
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := k.verify(token); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 || remembered != 101 {
		t.Errorf("%v allocations, remembered %d times; want none, and 101", allocs, remembered)
	}
}

// BenchmarkVerify verifies access tokens: one that comes again, by one at a time and by many, and one that comes for the first time.
func BenchmarkVerify(b *testing.B) {
	k := keysOf(b)
	token := tokenOf(b, k, true)
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.verify(token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("remembered by many", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := k.verify(token); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		set := k.current.Load()
		for b.Loop() {
			if _, err := set.verify(token); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRememberVerified fills the memory of verified tokens to its bound.
func BenchmarkRememberVerified(b *testing.B) {
	b.ReportAllocs()
	now := time.Now()
	for b.Loop() {
		var v verifiedTokens
		for i := range verifiedSets * verifiedWays {
			v.put(sumOf(i), claimsOf(i, now.Add(time.Hour)), now)
		}
	}
}
