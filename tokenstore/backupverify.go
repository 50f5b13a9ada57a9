package tokenstore

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
	"time"
)

// VerifyBackup reads a backup of so many bytes as CheckBackup does, with the root keys that its vault may be encrypted with, and then has the vault in it verified as
// Vault.Verify does, by the clock of the moment that it is of. In memory it has what that has, and of the backup a place in each 64 KiB. Errors are those of CheckBackup, and
// ErrNoKey without keys; what is wrong with the vault is no error.
func VerifyBackup(ctx context.Context, from io.ReaderAt, size int64, keys []RootKey, tell func(Progress)) (*Backup, *Verification, error) {
	if len(keys) == 0 {
		return nil, nil, ErrNoKey
	}
	s := &backupStore{from: from, size: size, places: make(map[Kind][]backupPlace)}
	var err error
	if s.Backup, err = checkBackup(ctx, io.NewSectionReader(from, 0, size), keys, tell, s.note); err != nil {
		return nil, nil, err
	}
	v, err := OpenReadOnly(ctx, s, Options{Keys: keys})
	if err != nil {
		return nil, nil, err
	}
	report, err := v.Verify(ctx, tell)
	return s.Backup, report, err
}

// backupStore is a backup that was checked, as a store that is only verified.
type backupStore struct {
	*Backup
	from   io.ReaderAt
	size   int64
	places map[Kind][]backupPlace
}

// backupPlace is where a row begins.
type backupPlace struct {
	id string
	at int64
}

// backupPlaces is how far the places are apart that are known.
const backupPlaces = 64 << 10

// note notes where a row begins, if none before it is near.
func (s *backupStore) note(row *Row, at int64) {
	known := s.places[row.Kind]
	if n := len(known); n == 0 || at-known[n-1].at >= backupPlaces {
		s.places[row.Kind] = append(known, backupPlace{row.ID, at})
	}
}

// read calls visit with the rows of a kind, from one that is not behind the id on, until that returns false.
func (s *backupStore) read(ctx context.Context, kind Kind, id string, visit func(Row) (more bool)) error {
	places := s.places[kind]
	if len(places) == 0 {
		return nil
	}
	at := places[max(0, sort.Search(len(places), func(i int) bool { return places[i].id > id })-1)].at
	in := bufio.NewReaderSize(io.NewSectionReader(s.from, at, s.size-at), backupPlaces)
	var head [5]byte
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return fmt.Errorf("read the backup: %w", err)
		}
		size := binary.BigEndian.Uint32(head[1:])
		if head[0] == backupEnd {
			return nil
		}
		if head[0] != backupRow || size > maxBackupRow {
			return errBackupChanges
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(in, frame); err != nil {
			return fmt.Errorf("read the backup: %w", err)
		}
		row, ok := decodeBackupRow(frame)
		if !ok {
			return errBackupChanges
		}
		if row.Kind != kind || !visit(row) {
			return nil
		}
	}
}

var errBackupChanges = noBackup("it was changed while it was read")

// Get implements Store.
func (s *backupStore) Get(ctx context.Context, kind Kind, id string) (found Row, err error) {
	err = s.read(ctx, kind, id, func(row Row) bool {
		if row.ID == id {
			found = row
		}
		return row.ID < id
	})
	if err == nil && found.ID == "" {
		err = ErrNotFound
	}
	return found, err
}

// Recall implements Store.
func (s *backupStore) Recall(ctx context.Context, kind Kind, id string, open OpenRow) (any, error) {
	return GetOpened(ctx, s, kind, id, open)
}

// List implements Store, but for references: a backup has no index.
func (s *backupStore) List(ctx context.Context, kind Kind, q Query) (rows []Row, err error) {
	if len(q.Refs) > 0 {
		return nil, errNotInBackup
	}
	limit := cmp.Or(q.Limit, 100)
	err = s.read(ctx, kind, q.After, func(row Row) bool {
		if row.ID > q.After {
			rows = append(rows, row)
		}
		return len(rows) < limit
	})
	return rows, err
}

// Count implements Store, but for references.
func (s *backupStore) Count(_ context.Context, kind Kind, refs ...string) (int, error) {
	if len(refs) > 0 {
		return 0, errNotInBackup
	}
	return s.Kinds[kind].Rows, nil
}

var errNotInBackup = errors.New("a backup is only verified, and not looked through")

// Due implements Store.
func (s *backupStore) Due(context.Context, Kind, time.Time, int) ([]Row, error) {
	return nil, errNotInBackup
}

// Apply implements Store.
func (s *backupStore) Apply(context.Context, ...Change) error { return errOpenedReadOnly }

// Sweep implements Store.
func (s *backupStore) Sweep(context.Context, Kind, time.Time, int) (int, error) {
	return 0, errOpenedReadOnly
}

// Watch implements Store: nothing changes.
func (s *backupStore) Watch(Kind, func(string)) (stop func()) { return func() {} }

// Check implements Store: that the backup is whole was seen when it was opened.
func (s *backupStore) Check(context.Context, func(StoreFault), func(Progress)) error { return nil }

// Now implements Store: it is the moment that the backup is of.
func (s *backupStore) Now() time.Time { return s.Taken }

// Steady implements Store.
func (s *backupStore) Steady() time.Time { return time.Time{} }

// Close implements Store.
func (s *backupStore) Close() error { return nil }

// Interface guard
var _ Store = (*backupStore)(nil)
