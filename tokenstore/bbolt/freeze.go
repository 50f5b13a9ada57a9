package bbolt

import (
	"context"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// freezeKey is where the bucket meta has the reason for which the file is read-only.
const freezeKey = "freeze"

// Freeze implements tokenstore.Movable. The committer makes it, after all Applies that came before.
func (s *Store) Freeze(ctx context.Context, was, now tokenstore.Freeze) error {
	return s.exclusive(ctx, &pending{alone: func(tx *bolt.Tx) error {
		meta, err := metaOf(tx)
		if err != nil {
			return err
		}
		switch string(meta.Get([]byte(freezeKey))) {
		case now.Text():
			return nil
		case was.Text():
		default:
			return fmt.Errorf("freeze: %w", tokenstore.ErrConflict)
		}
		if !now.Frozen() {
			if err := meta.Delete([]byte(freezeKey)); err != nil {
				return err
			}
			return meta.Put([]byte(formatKey), []byte(formatVersion))
		}
		if err := meta.Put([]byte(freezeKey), []byte(now.Text())); err != nil {
			return err
		}
		return meta.Put([]byte(formatKey), []byte(formatFrozen))
	}})
}

// Frozen implements tokenstore.Movable.
func (s *Store) Frozen(ctx context.Context) (f tokenstore.Freeze, err error) {
	if err := s.usable(ctx); err != nil {
		return f, err
	}
	err = s.view(func(tx *bolt.Tx) (err error) {
		f, err = freezeIn(tx)
		return err
	})
	return f, err
}

func metaOf(tx *bolt.Tx) (*bolt.Bucket, error) {
	meta := tx.Bucket([]byte(metaBucket))
	if meta == nil {
		return nil, fmt.Errorf("%w: the vault file has no bucket %s", tokenstore.ErrDamaged, metaBucket)
	}
	return meta, nil
}

func freezeIn(tx *bolt.Tx) (tokenstore.Freeze, error) {
	meta, err := metaOf(tx)
	if err != nil {
		return tokenstore.Freeze{}, err
	}
	return tokenstore.ParseFreeze(string(meta.Get([]byte(freezeKey))))
}

// noteFreeze keeps in memory what the file says, whatever became of a commit.
func (s *Store) noteFreeze() {
	var f tokenstore.Freeze
	err := s.view(func(tx *bolt.Tx) (err error) {
		f, err = freezeIn(tx)
		return err
	})
	if err != nil {
		f = tokenstore.Freeze{} // mayWrite says
	}
	s.frozen.Store(&f)
}

// refuses says early that a frozen store takes none of the changes: what is asked for again and again is not to cost a sync of the disk each time.
func (s *Store) refuses(changes []tokenstore.Change) error {
	f := s.frozen.Load()
	if f == nil || !f.Frozen() {
		return nil
	}
	for _, c := range changes {
		if f.State == tokenstore.FreezeDraining && c.Op == tokenstore.OpUpdate && c.Row.Kind == tokenstore.KindAccount {
			return nil // mayWrite knows what is stored
		}
	}
	return f.Refuse()
}

// mayWrite returns why changes must not be made in a file that is frozen.
func mayWrite(tx *bolt.Tx, changes []tokenstore.Change, before []*tokenstore.Row) error {
	f, err := freezeIn(tx)
	if err != nil || !f.Frozen() {
		return err
	}
	for i, c := range changes {
		if f.State == tokenstore.FreezeDraining && before[i] != nil && tokenstore.Ends(c.Op, *before[i]) {
			return nil
		}
	}
	return f.Refuse()
}

// Interface guard
var _ tokenstore.Movable = (*Store)(nil)
