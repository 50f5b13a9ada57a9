package bbolt

import (
	"sync"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// place is where something stands in the file.
type place struct{ bucket, key string }

// notes are the places at which the file may have changed since somebody began to copy it.
type notes struct {
	mu      sync.Mutex
	places  map[place]struct{}
	spoiled bool // something else than rows and their index entries may have changed
}

// note keeps what a pending Apply has changed, or may have, for who copies the file. It is called when the transaction has ended: who reads
// after having taken a note reads what is noted.
func (s *Store) note(p *pending) {
	n := s.notes.Load()
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.spoiled = n.spoiled || p.alone != nil
	for i, c := range p.changes {
		n.add(c.Row)
		if i < len(p.before) && p.before[i] != nil {
			n.add(*p.before[i])
		}
	}
}

// add notes all places of a row, for a holder of the lock.
func (n *notes) add(row tokenstore.Row) {
	kind := string(row.Kind)
	n.places[place{kind, row.ID}] = struct{}{}
	for _, ref := range row.Refs {
		n.places[place{kind + refsSuffix, refKey(ref, row.ID)}] = struct{}{}
	}
	if !row.DeleteAfter.IsZero() {
		n.places[place{kind + expirySuffix, string(timeKey(row.DeleteAfter, row.ID))}] = struct{}{}
	}
	if !row.Due.IsZero() {
		n.places[place{kind + dueSuffix, string(timeKey(row.Due, row.ID))}] = struct{}{}
	}
}

func (n *notes) len() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.places)
}

// take returns the notes, and begins new ones.
func (n *notes) take() (places map[place]struct{}, spoiled bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	places, n.places = n.places, make(map[place]struct{})
	return places, n.spoiled
}

// pair is what stands at a place: nothing when the value is nil.
type pair struct{ key, value []byte }

// readPlaces reads what stands at some places now, by bucket.
func readPlaces(tx *bolt.Tx, places map[place]struct{}) (map[string][]pair, error) {
	found := make(map[string][]pair)
	for at := range places {
		b := tx.Bucket([]byte(at.bucket))
		if b == nil {
			return nil, errDamaged("it has no bucket " + at.bucket)
		}
		p := pair{key: []byte(at.key)}
		if value := b.Get(p.key); value != nil {
			var err error
			if p.value, err = cloneValue(value); err != nil {
				return nil, err
			}
		}
		found[at.bucket] = append(found[at.bucket], p)
	}
	return found, nil
}
