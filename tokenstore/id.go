package tokenstore

import (
	"crypto/rand"
	"time"
)

// idAlphabet is that of rand.Text in the order of its bytes, so that ids sort as what they are made of.
const idAlphabet = "234567ABCDEFGHIJKLMNOPQRSTUVWXYZ"

const (
	idTime   = 10 // characters that stand for the time, 50 bits
	idRandom = 16 // random characters, 80 bits
)

// NewID makes an id for a record of which newer ones are to be listed first: 26 characters, of which the first ten are the milliseconds to
// the far end of time, and the others random. No two are the same. It is no secret, though nobody can guess one.
func NewID(now time.Time) string {
	id := append(make([]byte, 0, idTime+idRandom), idBegin(now)...)
	random := make([]byte, idRandom)
	_, _ = rand.Read(random) // never fails, see crypto/rand
	for _, b := range random {
		id = append(id, idAlphabet[b%32])
	}
	return string(id)
}

// idBegin is how ids of a time begin. Ids of earlier times are greater.
func idBegin(t time.Time) string {
	const end = 1<<(5*idTime) - 1
	left := end - uint64(min(max(t.UnixMilli(), 0), end))
	var begin [idTime]byte
	for i := range begin {
		begin[idTime-1-i] = idAlphabet[left>>(5*i)&31]
	}
	return string(begin[:])
}
