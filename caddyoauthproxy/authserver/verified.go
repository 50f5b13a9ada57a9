package authserver

import (
	"crypto/sha256"
	"encoding/binary"
	"sync/atomic"
	"time"
	"unique"
)

// Each access token comes with many requests, and checking its signature costs more than all the rest of one. What a key set has verified it need not verify
// again: nothing of that ever changes, and it goes with the set when a key is added or dropped. That a token was verified says nothing of its time,
// its proxy and its grant, which are judged with every request.

const (
	// verifiedSets and verifiedWays say how many tokens' claims are kept: 65,536, of some 300 bytes each. A token has its place in one set alone.
	verifiedSets = 8 << 10
	verifiedWays = 8

	// maxVerifiedText bounds what is kept of one token, so that all of them have a bound, in bytes. No usual token comes near it.
	maxVerifiedText = 512
)

// verifiedToken is a token that was verified. Nobody changes it.
type verifiedToken struct {
	sum    [sha256.Size]byte // of the whole token
	claims Claims
}

// verifiedTokens keeps the claims of tokens by the hash of the whole token. Whoever asks takes no lock, and writes nothing.
type verifiedTokens struct {
	slots [verifiedSets * verifiedWays]atomic.Pointer[verifiedToken]
}

// place is the nth of the places that a token may have. The first differs among those of one set, so that most tokens are found there.
func (v *verifiedTokens) place(sum *[sha256.Size]byte, n int) *atomic.Pointer[verifiedToken] {
	set := int(binary.LittleEndian.Uint32(sum[:]) % verifiedSets)
	return &v.slots[set*verifiedWays+(int(sum[len(sum)-1])+n)%verifiedWays]
}

// get returns the claims of a token, nil if they are not kept. They are shared.
func (v *verifiedTokens) get(sum *[sha256.Size]byte) *Claims {
	for n := range verifiedWays {
		if t := v.place(sum, n).Load(); t != nil && t.sum == *sum {
			return &t.claims
		}
	}
	return nil
}

// put keeps the claims of a token that was verified, and returns them as they are kept. Where its places are taken, one that has expired gives way, or else any.
func (v *verifiedTokens) put(sum *[sha256.Size]byte, c *Claims, now time.Time) *Claims {
	if len(c.Audience)+len(c.Subject)+len(c.ClientID)+len(c.Scope)+len(c.JTI)+len(c.GrantID) > maxVerifiedText {
		return c
	}
	place := v.place(sum, 0)
	for n := range verifiedWays {
		if t := v.place(sum, n).Load(); t == nil || t.claims.Expires <= now.Unix() {
			place = v.place(sum, n)
			break
		}
	}
	kept := &verifiedToken{sum: *sum, claims: compact(c)}
	place.Store(kept)
	return &kept.claims
}

// compact is claims in as little memory as they need: what is the same in many tokens is shared, and the rest is in one piece.
func compact(c *Claims) Claims {
	kept := *c
	kept.Issuer, kept.Audience, kept.Scope = unique.Make(c.Issuer).Value(), unique.Make(c.Audience).Value(), unique.Make(c.Scope).Value()
	rest := c.Subject + c.ClientID + c.JTI + c.GrantID
	for _, text := range []*string{&kept.Subject, &kept.ClientID, &kept.JTI, &kept.GrantID} {
		*text, rest = rest[:len(*text)], rest[len(*text):]
	}
	return kept
}
