package postgres

import (
	"errors"
	"fmt"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// group makes Applies together, and returns how each ended.
func (s *Store) group(t *testing.T, applies ...[]tokenstore.Change) []error {
	t.Helper()
	var group []*pending
	for _, changes := range applies {
		group = append(group, &pending{batch: newBatch(changes), ctx: t.Context(), slot: <-s.slots, sequence: s.count.Add(1), done: make(chan struct{})})
	}
	s.applyGroup(group)
	var errs []error
	for _, p := range group {
		<-p.done
		errs = append(errs, p.result())
	}
	return errs
}

func TestApplyOfAGroupIsJudgedByItself(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Connection: testpg.Database(t)})
	change := func(op tokenstore.Op, id string, version uint64) []tokenstore.Change {
		return []tokenstore.Change{{Op: op, Row: tokenstore.Row{Kind: tokenstore.KindGrant, ID: id, Version: version, Refs: []string{"all"}, Sealed: fmt.Append(nil, version)}}}
	}
	wrong := change(tokenstore.OpInsert, "wrong", 1)
	wrong[0].Row.Kind = "No Kind" // which the table refuses
	for name, tt := range map[string]struct {
		with []tokenstore.Change
		want error
	}{
		"conflict": {change(tokenstore.OpUpdate, "none", 2), tokenstore.ErrConflict},
		"failure":  {wrong, tokenstore.ErrUnavailable},
	} {
		both := append(change(tokenstore.OpInsert, name+"-1", 1), change(tokenstore.OpInsert, name+"-2", 1)...)
		errs := s.group(t, change(tokenstore.OpInsert, name, 1), tt.with, change(tokenstore.OpInsert, name, 1), change(tokenstore.OpUpdate, name, 2), both,
			append(change(tokenstore.OpInsert, name+"-3", 1), change(tokenstore.OpInsert, name+"-1", 1)...))
		inserts, updates := 0, 0
		for i, err := range errs {
			switch {
			case i == 1 && !errors.Is(err, tt.want):
				t.Errorf("%s: Apply %d of the group: %v", name, i, err)
			case (i == 0 || i == 2) && err == nil:
				inserts++
			case i == 3 && err == nil:
				updates++
			}
		}
		if n, err := s.Count(t.Context(), tokenstore.KindGrant, "all"); inserts != 1 || err != nil {
			t.Errorf("%s: one row was inserted %d times; %d rows, %v", name, inserts, n, err)
		}
		if row, err := s.Get(t.Context(), tokenstore.KindGrant, name); err != nil || row.Version != uint64(1+updates) {
			t.Errorf("%s: row of version %d after %d updates, %v", name, row.Version, updates, err)
		}
		if (errs[4] == nil) == (errs[5] == nil) { // which of them, nobody says: Applies of a group that failed are made alone
			t.Errorf("%s: of two Applies that insert the same row, one is to be made: %v, %v", name, errs[4], errs[5])
		}
		third, err := s.Get(t.Context(), tokenstore.KindGrant, name+"-3")
		if (errs[5] == nil) != (err == nil) {
			t.Errorf("%s: the last Apply returned %v, and its row is %v, %v", name, errs[5], third, err)
		}
	}
}

func TestApplyThatIsRepeatedIsMadeOnce(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Connection: testpg.Database(t)})
	slot := <-s.slots
	try := func(sequence int64, op tokenstore.Op, version uint64) error {
		p := &pending{batch: newBatch([]tokenstore.Change{{Op: op, Row: tokenstore.Row{Kind: tokenstore.KindGrant, ID: "id", Version: version}}}), ctx: t.Context(), slot: slot, sequence: sequence, done: make(chan struct{})}
		s.applyAlone(p)
		<-s.slots
		return p.result()
	}
	for i, tt := range []struct {
		sequence int64
		op       tokenstore.Op
		version  uint64
		want     error
	}{
		{1, tokenstore.OpInsert, 1, nil},
		{1, tokenstore.OpInsert, 1, nil},                    // asked again, it is told again
		{2, tokenstore.OpInsert, 1, tokenstore.ErrConflict}, // as another is not
		{3, tokenstore.OpDelete, 1, nil},                    // nobody finds out any more from the rows
		{3, tokenstore.OpDelete, 1, nil},
		{2, tokenstore.OpInsert, 1, tokenstore.ErrUnavailable}, // late, and given up: it could be made now, and must not
		{4, tokenstore.OpDelete, 1, tokenstore.ErrConflict},
		{5, tokenstore.OpInsert, 1, nil},
		{4, tokenstore.OpDelete, 1, tokenstore.ErrUnavailable},
	} {
		if err := try(tt.sequence, tt.op, tt.version); !errors.Is(err, tt.want) {
			t.Errorf("call %d, of sequence %d: %v; want %v", i, tt.sequence, err, tt.want)
		}
	}
	if _, err := s.Get(t.Context(), tokenstore.KindGrant, "id"); err != nil {
		t.Error(err)
	}
}
