package tokenstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// MovedKind compares the rows of one kind in the two stores of a move.
type MovedKind struct {
	Kind   Kind       `json:"kind"`
	Source KindDigest `json:"source"`
	Target KindDigest `json:"target"`
}

// KindDigest is how many rows of a kind a store has, and the hash of them all: SHA-256 in hex, over kind, id, version, state, references, due, end of life and sealed
// value of each, in the order of the ids.
type KindDigest struct {
	Rows   int    `json:"rows"`
	SHA256 string `json:"sha256"`
}

// Different returns an error that names the kinds in which the stores differ, nil where they are the same.
func Different(kinds []MovedKind) error {
	var failed []error
	for _, k := range kinds {
		if k.Source != k.Target {
			failed = append(failed, fmt.Errorf("%s: the source has %d rows (%.16s), and the target %d (%.16s)", k.Kind, k.Source.Rows, k.Source.SHA256, k.Target.Rows, k.Target.SHA256))
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("the copy is not the same: %w", errors.Join(failed...))
	}
	return nil
}

// compare reads both stores.
func (m *Move) compare(ctx context.Context) ([]MovedKind, error) {
	kinds := make([]MovedKind, 0, len(Kinds()))
	for _, kind := range Kinds() {
		source, err := digest(ctx, m.From, kind)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Source, err)
		}
		m.tell(MoveVerifying, kind, 0, source.Rows)
		target, err := digest(ctx, m.To, kind)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Target, err)
		}
		m.tell(MoveVerifying, kind, target.Rows, source.Rows)
		kinds = append(kinds, MovedKind{kind, source, target})
	}
	return kinds, nil
}

// digest reads all rows of a kind.
func digest(ctx context.Context, s Store, kind Kind) (KindDigest, error) {
	h := sha256.New()
	rows := 0
	var b []byte
	for c := newRowCursor(s, kind); ; rows++ {
		row, err := c.next(ctx)
		if err != nil {
			return KindDigest{}, fmt.Errorf("%s: %w", kind, err)
		}
		if row == nil {
			return KindDigest{rows, hex.EncodeToString(h.Sum(nil))}, nil
		}
		b = appendRow(b[:0], *row)
		h.Write(b)
	}
}
