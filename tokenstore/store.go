package tokenstore

import (
	"context"
	"errors"
	"time"
)

// Errors that a Store returns and callers decide on. Implementations wrap them
// with what they know (kind, id), so test with errors.Is.
var (
	// ErrNotFound says that no row of that kind and id exists.
	ErrNotFound = errors.New("not found")

	// ErrConflict says that a Change lost the compare-and-swap: somebody else
	// inserted, updated or deleted the row first. Nothing of the whole Apply was
	// written. Callers re-read and decide again.
	ErrConflict = errors.New("changed by somebody else")

	// ErrCheckFailed says that a row was not as an OpCheck expects, and that no other change was found to conflict. It is an ErrConflict.
	ErrCheckFailed error = checkFailedError{}

	// ErrClosed says that the Store was closed. A request that outlived its
	// gateway answers 503 to it, never 401.
	ErrClosed = errors.New("vault is closed")

	// ErrUnavailable says that the storage behind the Store cannot be used at the
	// moment (disk full, database gone). Callers answer 503 and keep what they have.
	ErrUnavailable = errors.New("vault is unavailable")

	// ErrDamaged is an ErrUnavailable that waiting does not help against: the storage answers, and what it holds cannot be read.
	ErrDamaged error = damagedError{}
)

type damagedError struct{}

func (damagedError) Error() string { return ErrUnavailable.Error() }
func (damagedError) Unwrap() error { return ErrUnavailable }

type checkFailedError struct{}

func (checkFailedError) Error() string { return "not as the change expects" }
func (checkFailedError) Unwrap() error { return ErrConflict }

// Kind names a family of rows. It is part of what every sealed value is bound
// to, so a row of one kind can never be read as another.
type Kind string

// The kinds of rows in a vault.
const (
	KindKeyring      Kind = "keyring"
	KindSigningKeys  Kind = "signing_keys"
	KindClient       Kind = "client"
	KindLogin        Kind = "login"
	KindCode         Kind = "code"
	KindGrant        Kind = "grant"
	KindAccount      Kind = "account"
	KindConsent      Kind = "consent"
	KindAssertion    Kind = "assertion"
	KindRegistration Kind = "registration"
	KindAPIKey       Kind = "api_key"
	KindJob          Kind = "job"
	KindEvent        Kind = "event"         // of the audit trail, not chained yet
	KindAuditSegment Kind = "audit_segment" // of its chain
	KindAuditHead    Kind = "audit_head"    // the end of its chain
	KindSignIn       Kind = "sign_in"

	KindRevocationOrder Kind = "revocation_order"
)

// Row is one record as a Store sees it: a sealed value, and in clear only what
// is needed to find it, to order writes, and to delete it in time.
type Row struct {
	Kind Kind

	// ID is unique within the kind: printable ASCII without spaces, at most 128 bytes.
	ID string

	// Version is 1 after the insert and grows by one with every update.
	Version uint64

	// State is the record's state in clear ("active", "revoked", …) for listing,
	// or empty where the kind has none: printable ASCII without spaces, at most 32 bytes.
	State string

	// Refs are further keys under which List finds the row, such as
	// "client:gateway_0f…" or "user:<keyed hash>". At most 32, each printable ASCII
	// without spaces of at most 192 bytes, without order or repetition.
	Refs []string

	// Due is when somebody wants to look at the row again, and finds it with Store.Due. Zero for never. Stored
	// with millisecond precision.
	Due time.Time

	// DeleteAfter is the time after which Sweep may delete the row. Zero keeps it
	// for ever. Stored with millisecond precision.
	DeleteAfter time.Time

	// Sealed is the encrypted record, at most 4 MiB. A Store never looks inside.
	Sealed []byte
}

// Op is what a Change does.
type Op uint8

// The operations of a Change.
const (
	// OpInsert stores a new row with Version 1; it conflicts when the id exists.
	OpInsert Op = iota + 1

	// OpUpdate replaces the row whose stored version is Row.Version-1 with Row; it
	// conflicts when the stored version is another or the row is gone.
	OpUpdate

	// OpDelete removes the row whose stored version is Row.Version; it conflicts when the
	// stored version is another or the row is gone. Only Kind, ID and Version are read.
	OpDelete

	// OpReseal replaces the sealed value of the row whose stored version is Row.Version, and nothing else: whoever holds that version has lost nothing. It conflicts when the
	// stored version is another or the row is gone. Only Kind, ID, Version and Sealed are read. Watchers are told as of an update.
	OpReseal

	// OpCheck changes nothing, and conflicts with ErrCheckFailed unless the stored version is Row.Version, or there is no such row where that is zero. It is for the kind
	// keyring alone: no other Apply changes a row of that kind between the check and the changes that are made with it. Only Kind, ID and Version are read.
	OpCheck
)

// Change is one step of an Apply.
type Change struct {
	Op  Op
	Row Row
}

// Query selects rows of one kind.
type Query struct {
	// Refs keeps only rows that carry every one of these references. Empty selects every row of the kind. Their order makes no difference to what is selected; a
	// caller who knows which of them few rows carry names these first, which may be faster.
	Refs []string

	// After starts behind this id, for paging. Empty starts at the first row.
	After string

	// Limit is the most rows to return, 1 to 1000. Zero means 100.
	Limit int
}

// Store keeps rows. It is the contract between the vault and a storage
// technology: implementations know nothing of OAuth or cryptography, and never
// see a secret in clear.
//
// Every method is safe for concurrent use, honours ctx while it waits, and
// returns within a bounded time even when the storage is slow or gone
// (ErrUnavailable). After Close every method returns ErrClosed. Returned rows
// belong to the caller, and rows passed in are not kept or changed.
//
// A read sees every Apply that has returned before it began, on any node.
//
// The package storetest holds the suite that every implementation must pass.
type Store interface {
	// Get returns one row, or ErrNotFound.
	Get(ctx context.Context, kind Kind, id string) (Row, error)

	// Recall is Get for what every request asks for: it returns what open makes of the row, and may answer from this process's memory with what was made of it before, for
	// another caller too. So what is returned is shared, and not to be changed, and whoever recalls rows of a kind has the same made of them. What open refuses is
	// not remembered. Recall sees every Apply and Sweep that has returned on this Store before it began, and what other nodes changed more than a second before. While the
	// storage is unavailable a Store may go on answering from memory, for no longer than its operator allows.
	Recall(ctx context.Context, kind Kind, id string, open OpenRow) (opened any, err error)

	// Now is the storage's clock, the same on all nodes to within the time of a round trip, whatever their own clocks say. Leases and ends of life are judged by it.
	Now() time.Time

	// Steady is since when, by Now, the storage has answered this process without a gap; zero for always. What another node was about to write when there was a gap, it
	// may still be about to write.
	Steady() time.Time

	// Apply makes all changes or none. It returns nil only after the changes are
	// durable: they survive a crash of the process and of the machine. A lost
	// compare-and-swap is ErrConflict. Two changes of one Apply never name the same row;
	// that, and what is outside the limits of Row, is ErrInvalid (see CheckChanges).
	//
	// When ctx ends while Apply waits, the changes may or may not have been made.
	Apply(ctx context.Context, changes ...Change) error

	// List returns the rows that q selects, ordered by id. A page takes about as long however many rows there are: it is found in an index of
	// references, and several are intersected there. Rows that carry too few of them are not read.
	List(ctx context.Context, kind Kind, q Query) ([]Row, error)

	// Count returns how many rows of the kind carry every one of the references, or are there at all when there are none. Without references, or with one that Counted names, it may
	// answer with a number that is kept beside the rows: where the storage was damaged or edited that may be wrong, so it is to be told, and nothing is to be decided by it.
	Count(ctx context.Context, kind Kind, refs ...string) (int, error)

	// Due returns at most limit rows of the kind whose Due is set and lies before the given time, oldest first, and those of one
	// time ordered by id. Limit is as in Query. Whoever has looked at a row gives it another Due, or none.
	Due(ctx context.Context, kind Kind, before time.Time, limit int) ([]Row, error)

	// Sweep deletes at most limit rows of the kind whose DeleteAfter is set and lies before
	// the given time, oldest first, and returns how many.
	Sweep(ctx context.Context, kind Kind, before time.Time, limit int) (int, error)

	// Watch calls changed with the id of every row of the kind that an Apply or a Sweep has inserted, updated or deleted, on whichever
	// node, after Watch has returned: within a second of the change being durable, and when reads show it. It may be called without need. An empty
	// id says that changes may have been missed, as when a connection was lost: whatever was read of the kind is to be read again.
	//
	// Calls come one after the other, and hold up neither an Apply nor other watchers. What changed does in them must not take long, and must
	// not call stop or Close, nor wait for who does. After stop or Close has returned, changed is not called again. Stopping twice is harmless, and
	// what watches a closed Store is never called.
	Watch(kind Kind, changed func(id string)) (stop func())

	// Check compares what rows are found by with the rows themselves, and looks at what is underneath as far as the storage can tell whether that is whole. It tells
	// of every fault and of how far it is, in calls that come one after the other. It reads in short steps, which hold up nobody, and what is changed meanwhile is no fault.
	// The error is that of a storage that cannot be asked.
	Check(ctx context.Context, fault func(StoreFault), progress func(Progress)) error

	// Close waits for running calls, then releases what the Store holds. Closing twice is nil.
	Close() error
}

// OpenRow makes of a row what Recall is to return, and tells about how many bytes of memory that takes. The row is its own.
type OpenRow func(row Row) (opened any, bytes int, err error)

// Recalls is what a Store remembers for Recall, and how often that was asked for since the Store was opened.
type Recalls struct {
	// Rows is how many rows are in memory.
	Rows int

	// Hits are the Recalls that were answered from memory, Misses those for which the storage was read.
	Hits, Misses uint64
}

// GetOpened is Recall without a memory.
func GetOpened(ctx context.Context, s Store, kind Kind, id string, open OpenRow) (any, error) {
	row, err := s.Get(ctx, kind, id)
	if err != nil {
		return nil, err
	}
	opened, _, err := open(row)
	return opened, err
}

// StoreFault is something wrong in a storage, apart from what is sealed.
type StoreFault struct {
	// Class is FaultIndex, FaultUnreadable, FaultCount or FaultStorage.
	Class FaultClass

	// Kind and ID are those of the row that it concerns; empty where it concerns none, or it is not known which.
	Kind Kind
	ID   string

	// Problem says in words what is wrong.
	Problem string
}
