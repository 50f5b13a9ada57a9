package tokenstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
)

const (
	// moveRows and moveBytes bound what is read and written at once: rows are small in general, and a segment of the audit trail may have a megabyte.
	moveRows  = 500
	moveBytes = 2 << 20

	// firstRows is how many rows are read to learn how large they are.
	firstRows = 10
)

// rowCursor reads all rows of a kind, ordered by id.
type rowCursor struct {
	store Store
	kind  Kind
	size  int // of the next page
	after string
	page  []Row
	last  bool
}

func newRowCursor(s Store, kind Kind) *rowCursor {
	return &rowCursor{store: s, kind: kind, size: firstRows}
}

// next returns the next row, nil behind the last.
func (c *rowCursor) next(ctx context.Context) (*Row, error) {
	if len(c.page) == 0 && !c.last {
		page, err := c.store.List(ctx, c.kind, Query{After: c.after, Limit: c.size})
		if err != nil {
			return nil, err
		}
		c.page, c.last = page, len(page) < c.size
		if !c.last {
			c.after = page[len(page)-1].ID
			c.size = pageFor(page)
		}
	}
	if len(c.page) == 0 {
		return nil, nil
	}
	row := &c.page[0]
	row.Kind = c.kind
	c.page = c.page[1:]
	return row, nil
}

// pageFor is how many rows a page is to have behind one with such rows.
func pageFor(page []Row) int {
	size := 0
	for _, row := range page {
		size += len(row.Sealed)
	}
	return max(1, min(moveRows, moveBytes*len(page)/max(size, 1)))
}

// copyAll makes the target the same as the source, kind by kind. The keyring is the last: a store without it is no vault.
func (m *Move) copyAll(ctx context.Context, step Step) error {
	kinds := slices.DeleteFunc(Kinds(), func(k Kind) bool { return k == KindKeyring })
	for _, kind := range append(kinds, KindKeyring) {
		if err := m.copyKind(ctx, step, kind); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

// copyKind goes through the rows of both stores at once, in the order of their ids, and writes what differs.
func (m *Move) copyKind(ctx context.Context, step Step, kind Kind) error {
	total, err := m.From.Count(ctx, kind)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Source, err)
	}
	from, to := newRowCursor(m.From, kind), newRowCursor(m.To, kind)
	batch := &moveBatch{store: m.To, kind: kind}
	want, err := from.next(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Source, err)
	}
	have, err := to.next(ctx)
	for done := 0; err == nil && (want != nil || have != nil); {
		switch {
		case want == nil || have != nil && have.ID < want.ID:
			if err = batch.delete(ctx, have.ID); err == nil {
				have, err = to.next(ctx)
			}
			continue
		case have != nil && have.ID == want.ID:
			if !same(*want, *have) {
				err = batch.put(ctx, *want)
			}
			if err == nil {
				have, err = to.next(ctx)
			}
		default:
			err = batch.put(ctx, *want)
		}
		if done++; done%moveRows == 0 {
			m.tell(step, kind, done, max(done, total))
		}
		if err == nil {
			if want, err = from.next(ctx); err != nil {
				return fmt.Errorf("%s: %w", m.Source, err)
			}
		}
	}
	if err == nil {
		err = batch.flush(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.Target, err)
	}
	m.tell(step, kind, total, total)
	return nil
}

// moveBatch gathers what is to be written to the target.
type moveBatch struct {
	store Movable
	kind  Kind
	rows  []Row
	gone  []string
	bytes int
}

func (b *moveBatch) put(ctx context.Context, row Row) error {
	b.rows, b.bytes = append(b.rows, row), b.bytes+len(row.Sealed)
	return b.flushFull(ctx)
}

func (b *moveBatch) delete(ctx context.Context, id string) error {
	b.gone = append(b.gone, id)
	return b.flushFull(ctx)
}

func (b *moveBatch) flushFull(ctx context.Context) error {
	if len(b.rows)+len(b.gone) < moveRows && b.bytes < moveBytes {
		return nil
	}
	return b.flush(ctx)
}

func (b *moveBatch) flush(ctx context.Context) error {
	if len(b.rows)+len(b.gone) == 0 {
		return nil
	}
	if err := b.store.Import(ctx, b.kind, b.rows, b.gone); err != nil {
		return err
	}
	b.rows, b.gone, b.bytes = nil, nil, 0
	return nil
}

// same reports whether two rows are the same in all that is kept of them.
func same(a, b Row) bool {
	return a.Version == b.Version && a.State == b.State && millis(a.Due) == millis(b.Due) && millis(a.DeleteAfter) == millis(b.DeleteAfter) &&
		bytes.Equal(a.Sealed, b.Sealed) && slices.Equal(slices.Sorted(slices.Values(a.Refs)), slices.Sorted(slices.Values(b.Refs)))
}
