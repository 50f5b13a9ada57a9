package tokenstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ErrReadOnly says that the vault is read-only, because it is being moved to another store, or was. It is an ErrUnavailable: callers answer 503 and keep
// what they have. Nothing was written.
var ErrReadOnly error = readOnlyError{}

type readOnlyError struct{}

func (readOnlyError) Error() string { return "vault is read-only" }
func (readOnlyError) Unwrap() error { return ErrUnavailable }

// FreezeState is how far a frozen store is.
type FreezeState string

// The states of frozen stores. A store that is not frozen has none.
const (
	// FreezeDraining refuses every Apply and Sweep, but for Applies with an update of an account that is stored as refreshing: refreshes under way end well.
	FreezeDraining FreezeState = "draining"

	// FreezeMoving refuses them all. What is read is what is copied.
	FreezeMoving FreezeState = "moving"

	// FreezeEnding is the same, once the copy was compared: from here on the other store may be in use, and there is no way back but moving.
	FreezeEnding FreezeState = "ending"

	// FreezeMoved is that of a store whose vault is in another one now.
	FreezeMoved FreezeState = "moved"

	// FreezeFilling is that of a store to which a vault is being copied. It is the one in which Import writes.
	FreezeFilling FreezeState = "filling"
)

// Freeze says why a store is read-only. The zero value is that of a store that is not.
type Freeze struct {
	State FreezeState `json:"state"`

	// Vault tells the vault that is moved from all others, see Vault.Identity.
	Vault string `json:"vault"`

	// From and To are the stores of the move, in words for people.
	From string `json:"from"`
	To   string `json:"to"`

	// Since is when the store came into this state.
	Since time.Time `json:"since"`
}

// Frozen reports whether there is a reason at all.
func (f Freeze) Frozen() bool { return f != Freeze{} }

// String is why, for people.
func (f Freeze) String() string {
	switch f.State {
	case FreezeMoved:
		return fmt.Sprintf("it was moved to %s at %s", f.To, f.Since.Format(time.RFC3339))
	case FreezeFilling:
		return fmt.Sprintf("it is being filled from %s since %s", f.From, f.Since.Format(time.RFC3339))
	default:
		return fmt.Sprintf("it is being moved to %s since %s", f.To, f.Since.Format(time.RFC3339))
	}
}

// Refuse returns the error of what would write.
func (f Freeze) Refuse() error { return fmt.Errorf("%w: %s", ErrReadOnly, f) }

// Ends reports whether a change ends a refresh that was under way when the store was frozen, as far as the change and the row that is stored say. Of an Apply
// with such a change all changes are made while a store is FreezeDraining.
func Ends(op Op, stored Row) bool {
	return op == OpUpdate && stored.Kind == KindAccount && stored.State == string(StateRefreshing)
}

// Text is the form in which stores keep the reason, empty for none.
func (f Freeze) Text() string {
	if !f.Frozen() {
		return ""
	}
	text, _ := json.Marshal(f) // texts and a time can always be written
	return string(text)
}

// ParseFreeze reads what Text has written. What it cannot read is ErrUnavailable: a store that is frozen is not to be written because nobody knows why.
func ParseFreeze(text string) (Freeze, error) {
	if text == "" {
		return Freeze{}, nil
	}
	var f Freeze
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return f, fmt.Errorf("%w: it is frozen, and the reason cannot be read", ErrUnavailable)
	}
	switch f.State {
	case FreezeDraining, FreezeMoving, FreezeEnding, FreezeMoved, FreezeFilling:
		return f, nil
	}
	return f, fmt.Errorf("%w: it is frozen in a way that this release does not know (%q); use the release that froze it, or a newer one", ErrUnavailable, clip(string(f.State)))
}

// Movable is a Store whose rows can be moved to another one.
type Movable interface {
	Store

	// Freeze takes the store from one state to another, either of which may be the zero value; ErrConflict says that it is in neither. It is durable, holds on all
	// nodes, and waits for Applies that run: when it has returned, every further one is judged by the new state. Reads go on as before in all states.
	Freeze(ctx context.Context, was, now Freeze) error

	// Frozen returns the state.
	Frozen(ctx context.Context) (Freeze, error)

	// Import writes rows of one kind as they are, with their versions, over whatever there is, and deletes those of the other ids, in one durable step. It is for stores that
	// are being filled: in any other state it fails, with ErrConflict. Watchers need not be told.
	Import(ctx context.Context, kind Kind, rows []Row, gone []string) error

	// Snapshot calls visit with every row as of one moment, kind by kind in the order of Kinds, and ordered by id. It holds few rows in memory at a time, and
	// nobody up; but what visit does must not write to the store, nor wait for who does, and must not take long. It ends with visit's error, as it is.
	Snapshot(ctx context.Context, visit func(Row) error) error
}

// CheckImport returns ErrInvalid when an Import breaks a rule of Row. Every Movable calls it first.
func CheckImport(kind Kind, rows []Row, gone []string) error {
	changes := make([]Change, 0, len(rows)+len(gone))
	for _, row := range rows {
		if row.Kind != kind || row.Version == 0 {
			return fmt.Errorf("%w: %s %s of version %d among rows of the kind %s", ErrInvalid, row.Kind, clip(row.ID), row.Version, kind)
		}
		changes = append(changes, Change{OpInsert, row})
	}
	for _, id := range gone {
		changes = append(changes, Change{OpDelete, Row{Kind: kind, ID: id}})
	}
	return CheckChanges(changes)
}

// ErrNotImporting is what an Import fails with in a store that is not being filled.
func ErrNotImporting(f Freeze) error {
	if !f.Frozen() {
		return fmt.Errorf("%w: the store is not being filled any more", ErrConflict)
	}
	return fmt.Errorf("%w: the store is not being filled: %s", ErrConflict, f)
}

// MayServe returns why a gateway must not open the vault in a store: it is not whole yet, or it is what was left behind by a move, and would accept what was
// revoked since. A vault that is about to be moved is served, read-only; f says that.
func MayServe(ctx context.Context, s Store) (f Freeze, err error) {
	m, ok := s.(Movable)
	if !ok {
		return f, nil
	}
	if f, err = m.Frozen(ctx); err != nil {
		return f, err
	}
	switch f.State {
	case FreezeDraining, FreezeMoving, FreezeEnding:
		return f, nil
	case FreezeFilling:
		return f, errors.New(f.String() + ", and that was not finished: run what fills it again, `caddy oauth-proxy restore`, or `caddy oauth-proxy migrate` on the gateway that it is filled from; or empty it")
	case FreezeMoved:
		return f, errors.New(f.String() + ": start with the configuration that names that. Only if nobody has used the vault there, `caddy oauth-proxy migrate --thaw` with this configuration has this one served again")
	}
	return f, nil
}
