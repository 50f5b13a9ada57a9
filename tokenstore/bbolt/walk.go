package bbolt

import (
	"bytes"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// walk calls visit with the ids of the rows that carry every one of the references, in order and behind the given one, until it returns false. Without
// references it is every row of the kind.
//
// The ids of each reference are sorted. So the one that is furthest says where all others go on, and what lies between is
// never looked at: the shortest list bounds the work, not the vault.
func walk(tx *bolt.Tx, kind tokenstore.Kind, refs []string, after string, visit func(id []byte) bool) error {
	lists, err := idLists(tx, kind, refs)
	if err != nil {
		return err
	}
	var want []byte // the first id that may be next
	if after != "" {
		want = append([]byte(after), 0)
	}
	for {
		for i := 0; i < len(lists); {
			id, err := lists[i].seek(want)
			if err != nil {
				return fmt.Errorf("%s list: %w", kind, err)
			}
			if id == nil {
				return nil
			}
			if bytes.Equal(id, want) {
				i++
				continue
			}
			want = append(want[:0], id...)
			if i == 0 {
				i = 1
			} else {
				i = 0 // the lists before, which are shorter if the caller knows, go on before those behind are asked
			}
		}
		if !visit(want) {
			return nil
		}
		want = append(want, 0)
	}
}

// idList is the sorted ids of one reference, or those of all rows.
type idList struct {
	cursor *bolt.Cursor
	prefix []byte
	id     []byte // where it is; nil before it begins
	key    []byte // what is sought
}

func idLists(tx *bolt.Tx, kind tokenstore.Kind, refs []string) ([]*idList, error) {
	if len(refs) == 0 {
		b, err := bucket(tx, kind, "")
		if err != nil {
			return nil, err
		}
		return []*idList{{cursor: b.Cursor()}}, nil
	}
	b, err := bucket(tx, kind, refsSuffix)
	if err != nil {
		return nil, err
	}
	lists := make([]*idList, 0, len(refs))
	for _, ref := range refs {
		lists = append(lists, &idList{cursor: b.Cursor(), prefix: []byte(refKey(ref, ""))})
	}
	return lists, nil
}

// nearby is how many ids are stepped over before the tree is searched from its root, which takes about as long.
const nearby = 4

// seek moves to the first id that is not before the wanted one, and returns it, or nil behind the last. The list moves forward only.
func (l *idList) seek(want []byte) ([]byte, error) {
	for step := 0; l.id != nil && bytes.Compare(l.id, want) < 0 && step < nearby; step++ {
		key, _ := l.cursor.Next()
		if err := l.at(key, l.id, 1); err != nil || l.id == nil {
			return nil, err
		}
	}
	if l.id != nil && bytes.Compare(l.id, want) >= 0 {
		return l.id, nil
	}
	l.key = append(append(l.key[:0], l.prefix...), want...)
	key, _ := l.cursor.Seek(l.key)
	err := l.at(key, want, 0)
	return l.id, err
}

// at takes the id out of a key at which the cursor is. One that is not where it belongs, or is too long, is of a damaged file, in which a list may have no end.
func (l *idList) at(key, least []byte, over int) error {
	id, ok := bytes.CutPrefix(key, l.prefix)
	if key == nil || !ok {
		l.id = nil
		return nil
	}
	if len(id) > tokenstore.MaxKey || bytes.Compare(id, least) < over {
		return fmt.Errorf("%w: it cannot be read: the vault file is damaged", tokenstore.ErrDamaged)
	}
	l.id = id
	return nil
}

// timed reads at most limit rows from an index by time, those before a time, oldest first. An entry without a row that has that time is left out, as is a row that
// cannot be read: neither is to keep the others from being found.
func timed(tx *bolt.Tx, kind tokenstore.Kind, suffix string, before time.Time, limit int) ([]tokenstore.Row, error) {
	b, err := bucket(tx, kind, suffix)
	if err != nil {
		return nil, err
	}
	var rows []tokenstore.Row
	var last []byte
	end := timeKey(before, "")
	c := b.Cursor()
	for key, _ := c.First(); key != nil && bytes.Compare(key, end) < 0 && len(rows) < limit; key, _ = c.Next() {
		if len(key) <= timeSize || len(key) > timeSize+tokenstore.MaxKey || bytes.Compare(key, last) <= 0 {
			continue // damaged
		}
		last = bytes.Clone(key)
		row, err := get(tx, kind, string(key[timeSize:]))
		at := row.DeleteAfter
		if suffix == dueSuffix {
			at = row.Due
		}
		if err == nil && bytes.Equal(key, timeKey(at, row.ID)) {
			rows = append(rows, row)
		}
	}
	return rows, nil
}
