package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Restore fills an empty store from a backup. However it was cut off, it begins anew when it is run again; until it has come to its end, nobody serves the store.
type Restore struct {
	// Backup is what CheckBackup has found, with the keys of Options. Open opens it again.
	Backup *Backup
	Open   func() (io.ReadCloser, error)

	// To is the store, and Target what people call it.
	To     Movable
	Target string

	// Options are those of the vault.
	Options Options

	// CatchUp says what becomes of what was ended since the backup was taken.
	CatchUp CatchUp

	// Progress, when set, is told how far the restore is.
	Progress func(Progress)
}

// The steps of a restore, beside BackupChecking.
const (
	RestoreEmptying  Step = "emptying"  // what an earlier restore had written
	RestoreWriting   Step = "writing"   // the rows of the backup
	RestoreComparing Step = "comparing" // what was written with the backup
)

// ErrRestore is the error of a restore that is not to be.
var ErrRestore = errors.New("cannot be restored")

// Check returns why the store cannot be filled. It writes nothing.
func (r *Restore) Check(ctx context.Context) error {
	_, err := r.check(ctx)
	return err
}

// check returns the state that the store is in.
func (r *Restore) check(ctx context.Context) (Freeze, error) {
	f, err := r.To.Frozen(ctx)
	switch {
	case err != nil:
		return f, fmt.Errorf("%s: %w", r.Target, err)
	case f.State == FreezeFilling && f.Vault == r.Backup.Vault && f.From == r.Backup.String():
		return f, nil
	case f.Frozen():
		return f, fmt.Errorf("%w: %s: %s; name an empty store", ErrRestore, r.Target, f)
	}
	for _, kind := range Kinds() {
		rows, err := r.To.List(ctx, kind, Query{Limit: 1})
		if err != nil {
			return f, fmt.Errorf("%s: %w", r.Target, err)
		}
		if len(rows) > 0 {
			return f, fmt.Errorf("%w: %s holds a vault: move it away, or name an empty store. Where it is the vault that was put back by other means, "+
				"such as a copy of its file, use --in-place in place of --from", ErrRestore, r.Target)
		}
	}
	return f, nil
}

// Run fills the store, and returns what was ended there.
func (r *Restore) Run(ctx context.Context) (*CaughtUp, error) {
	was, err := r.check(ctx)
	if err != nil {
		return nil, err
	}
	filling := was
	if !was.Frozen() {
		filling = Freeze{State: FreezeFilling, Vault: r.Backup.Vault, From: r.Backup.String(), To: r.Target, Since: r.To.Now().UTC().Truncate(time.Millisecond)}
		if err := r.To.Freeze(ctx, was, filling); err != nil {
			return nil, fmt.Errorf("%s: %w", r.Target, err)
		}
	}
	if err := r.fill(ctx); err != nil {
		return nil, fmt.Errorf("%w; %s is not whole: run the restore again, or empty it", err, r.Target)
	}
	vault, err := Open(ctx, filledStore{r.To}, r.Options)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.Target, err)
	}
	done, err := vault.CatchUp(ctx, r.CatchUp, r.Backup.String())
	if err != nil {
		return nil, fmt.Errorf("%s: %w; run the restore again", r.Target, err)
	}
	if err := r.To.Freeze(ctx, filling, Freeze{}); err != nil {
		return nil, fmt.Errorf("%s: %w; run the restore again", r.Target, err)
	}
	return done, nil
}

// fill writes the rows of the backup, and compares.
func (r *Restore) fill(ctx context.Context) error {
	for _, kind := range Kinds() {
		if err := r.empty(ctx, kind); err != nil {
			return fmt.Errorf("%s: %w", r.Target, err)
		}
	}
	if err := r.write(ctx); err != nil {
		return err
	}
	for _, kind := range Kinds() {
		r.tell(RestoreComparing, kind, 0, r.Backup.Kinds[kind].Rows)
		have, err := digest(ctx, r.To, kind)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Target, err)
		}
		if want := r.Backup.Kinds[kind]; have != want {
			return fmt.Errorf("%s has %d rows of the kind %s (%.16s), and the backup %d (%.16s): they are not the same", r.Target, have.Rows, kind, have.SHA256, want.Rows, want.SHA256)
		}
	}
	return nil
}

// empty deletes the rows of a kind.
func (r *Restore) empty(ctx context.Context, kind Kind) error {
	for gone := 0; ; {
		rows, err := r.To.List(ctx, kind, Query{Limit: firstRows}) // each may be large
		if err != nil || len(rows) == 0 {
			return err
		}
		var ids []string
		for _, row := range rows {
			ids = append(ids, row.ID)
		}
		if err := r.To.Import(ctx, kind, nil, ids); err != nil {
			return err
		}
		gone += len(ids)
		r.tell(RestoreEmptying, kind, gone, gone)
	}
}

// write copies the rows into the store.
func (r *Restore) write(ctx context.Context) error {
	file, err := r.Open()
	if err != nil {
		return err
	}
	defer file.Close()
	in, err := ReadBackup(file)
	if err != nil {
		return err
	}
	batch, done := &moveBatch{store: r.To}, 0
	for {
		row, err := in.Next()
		if errors.Is(err, io.EOF) {
			err = batch.flush(ctx)
			if err != nil {
				err = fmt.Errorf("%s: %w", r.Target, err)
			}
			return err
		}
		if err != nil {
			return err
		}
		if row.Kind != batch.kind {
			err = batch.flush(ctx)
			batch.kind, done = row.Kind, 0
		}
		if err == nil {
			err = batch.put(ctx, *row)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.Target, err)
		}
		if done++; done == 1 || done%moveRows == 0 {
			r.tell(RestoreWriting, row.Kind, done, r.Backup.Kinds[row.Kind].Rows)
		}
	}
}

func (r *Restore) tell(step Step, kind Kind, done, total int) {
	if r.Progress != nil {
		r.Progress(Progress{Step: step, Kind: kind, Done: done, Total: max(done, total)})
	}
}

// filledStore is a store that is being filled, as one that can be written: for who fills it, and nobody else may. An Apply that is cut off may be made in part, so what was
// filled by then is worth nothing.
type filledStore struct{ Movable }

// Apply implements Store.
func (s filledStore) Apply(ctx context.Context, changes ...Change) error {
	if err := CheckChanges(changes); err != nil {
		return err
	}
	rows, gone := make(map[Kind][]Row), make(map[Kind][]string)
	for _, c := range changes {
		have, err := s.Get(ctx, c.Row.Kind, c.Row.ID)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		row := c.Row
		switch c.Op {
		case OpCheck:
			if err != nil {
				have.Version = 0
			}
			if have.Version != row.Version {
				return fmt.Errorf("%s %s: %w", row.Kind, row.ID, ErrCheckFailed)
			}
			continue
		case OpReseal:
			resealed := have
			resealed.Kind, resealed.ID, resealed.Sealed = row.Kind, row.ID, row.Sealed
			rows[row.Kind] = append(rows[row.Kind], resealed)
		case OpInsert:
			row.Version = 1
			rows[row.Kind] = append(rows[row.Kind], row)
			if err == nil {
				return fmt.Errorf("%s %s: %w", row.Kind, row.ID, ErrConflict)
			}
			continue
		case OpUpdate:
			rows[row.Kind] = append(rows[row.Kind], row)
			have.Version++
		case OpDelete:
			gone[row.Kind] = append(gone[row.Kind], row.ID)
		}
		if err != nil || have.Version != row.Version {
			return fmt.Errorf("%s %s: %w", row.Kind, row.ID, ErrConflict)
		}
	}
	for _, kind := range Kinds() {
		if len(rows[kind])+len(gone[kind]) == 0 {
			continue
		}
		if err := s.Import(ctx, kind, rows[kind], gone[kind]); err != nil {
			return err
		}
	}
	return nil
}
