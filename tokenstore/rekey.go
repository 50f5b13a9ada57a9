package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// A rekey gives a vault new keys, and has every row sealed by them; then the keys before are gone. Each step of it is in the ring, so that whoever opens the vault
// goes on with it: new keys that only open, until all nodes know them; new keys that seal; old keys gone, of each use when no row needs them. The keys of hashes and
// derived values stay, since what clients hold is known by its hash alone.
//
// What is sealed is written only while the vault's generation is that of the ring that sealed it, so that from the moment in which the new keys seal nothing is written by the old
// ones, whoever slept meanwhile.

// The steps of a rekey.
const (
	RekeyAnnouncing Step = "announcing" // the new keys open, and do not seal yet
	RekeySealing    Step = "sealing"    // rows are sealed anew
	RekeyVerifying  Step = "verifying"  // every row is opened, and was sealed by the new keys
	RekeyEnding     Step = "ending"     // every row was; nodes have a moment to forget the rows of before
)

// RekeyState is how a rekey does.
type RekeyState string

// The states of rekeys.
const (
	RekeyNone    RekeyState = "none"    // there was none since the vault began
	RekeyRunning RekeyState = "running" // it goes on
	RekeyWaiting RekeyState = "waiting" // every row is sealed anew; the old key of messages, such as open consent pages, is kept until the last has expired
	RekeyHeld    RekeyState = "held"    // there are rows that do not open, for whose sake the old keys are kept; it is tried again every hour
	RekeyDone    RekeyState = "done"
)

// Rekey is how a rekey does, as this process knows it.
type Rekey struct {
	State RekeyState `json:"state"`

	// Began is when it was begun, and Ended when the last one came to its end.
	Began time.Time `json:"began,omitzero"`
	Ended time.Time `json:"ended,omitzero"`

	// Progress is how far it is, nil while it does not run in this process.
	Progress *Progress `json:"progress,omitempty"`

	// Resealed is how many rows this process has sealed anew for it.
	Resealed int `json:"resealed,omitempty"`

	// Damaged are rows that do not open, the first hundred, and DamagedRows how many there are.
	Damaged     []RowName `json:"damaged,omitempty"`
	DamagedRows int       `json:"damaged_rows,omitempty"`

	// Next is when it goes on by itself, where it is waiting or held.
	Next time.Time `json:"next,omitzero"`

	// Error is why it does not go on at the moment, empty while it does; it is tried again.
	Error string `json:"error,omitempty"`
}

// RowName names a row.
type RowName struct {
	Kind Kind   `json:"kind"`
	ID   string `json:"id"`
}

const (
	// rekeyJob is the job of who does it.
	rekeyJob = "rekey"

	// announceTime is how long new keys only open: within a second, others are told of them.
	announceTime = 3 * time.Second

	// forgetTime is how long rows are remembered at most that others have changed.
	forgetTime = 3 * time.Second

	// heldTime is how long a rekey waits before it looks again at rows that do not open.
	heldTime = time.Hour

	// maxDamaged bounds how many of them are named.
	maxDamaged = 100
)

// rekeying is what a process knows of a rekey.
type rekeying struct {
	wake  chan struct{}
	left  context.Context // ends when rekeys are left to others
	leave context.CancelFunc

	announce, forget time.Duration // those above, where tests have no other

	mu       sync.Mutex
	began    time.Time // of the rekey that the following is about
	running  bool
	progress Progress
	resealed int
	damage   damage
	told     bool      // that it is held
	next     time.Time // not before
	err      error
}

// damage are rows that do not open.
type damage struct {
	rows  []RowName
	count int
	held  map[string]bool // uses whose old keys may be needed
}

func (d *damage) add(row Row, use string, old bool) {
	if d.count++; len(d.rows) < maxDamaged {
		d.rows = append(d.rows, RowName{row.Kind, row.ID})
	}
	if old {
		if d.held == nil {
			d.held = make(map[string]bool)
		}
		d.held[use] = true
	}
}

// BeginRekey gives the vault new keys, and has KeepKeys seal everything by them, in whichever process. Where that goes on already, it goes on; what is held is looked at again.
func (v *Vault) BeginRekey(ctx context.Context) (*Rekey, error) {
	e := v.NewEvent(ctx, EventVaultRekey)
	e.Details = map[string]string{"step": "begun"}
	ring, err := v.changeRing(ctx, e, func(ring *storedRing) bool {
		if ring.Rekey != nil {
			return false
		}
		now := v.now().UTC()
		ring.Rekey = &storedRekey{Began: now}
		for _, use := range sealingUses {
			ring.Keys = append(ring.Keys, storedKey{ID: random(len(keyID{})), Use: use, Secret: random(32), Created: now})
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	r := &v.keys.rekey
	r.mu.Lock()
	r.next = time.Time{}
	r.mu.Unlock()
	signal(r.wake)
	return v.describeRekey(ring), nil
}

// Rekey says how the rekey does, or the last one did.
func (v *Vault) Rekey(ctx context.Context) (*Rekey, error) {
	ring, err := v.readRing(ctx)
	if err != nil {
		return nil, err
	}
	return v.describeRekey(ring), nil
}

func (v *Vault) describeRekey(ring *keyring) *Rekey {
	out := &Rekey{State: RekeyNone, Ended: ring.Rekeyed}
	if ring.Rekey == nil {
		if !ring.Rekeyed.IsZero() {
			out.State = RekeyDone
		}
		return out
	}
	out.State, out.Began = RekeyRunning, ring.Rekey.Began
	if old := ring.oldUses(); !ring.Rekey.Sealing.IsZero() && len(old) == 1 && old[0] == useTxn {
		out.State, out.Next = RekeyWaiting, ring.Rekey.Sealing.Add(v.keys.messages)
	}
	r := &v.keys.rekey
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		out.Error = r.err.Error()
	}
	if !r.began.Equal(ring.Rekey.Began) {
		return out
	}
	out.Resealed, out.Damaged, out.DamagedRows = r.resealed, slices.Clone(r.damage.rows), r.damage.count
	if len(r.damage.held) > 0 && !r.running {
		out.State, out.Next = RekeyHeld, r.next
	}
	if r.running {
		p := r.progress
		out.Progress = &p
	}
	return out
}

// changeRing changes the ring, as the next generation, unless change has nothing to change. An event is recorded with it.
func (v *Vault) changeRing(ctx context.Context, e *Event, change func(*storedRing) bool) (*keyring, error) {
	for range ringAttempts {
		ring, err := v.readRing(ctx)
		if err != nil {
			return nil, err
		}
		changes, err := v.ringChanges(ctx, ring, e, change)
		if err == nil && len(changes) == 0 {
			return ring, nil
		}
		if err == nil {
			err = v.apply(ctx, changes)
		}
		switch {
		case errors.Is(err, ErrConflict): // another node was first
			continue
		case err != nil:
			return nil, fmt.Errorf("keyring: %w", err)
		}
		if e != nil {
			v.trail.wasRecorded(e)
		}
		return v.readRing(ctx)
	}
	return nil, fmt.Errorf("keyring: %w", ErrConflict)
}

// ringChanges makes the changes of changeRing; none where there is nothing to change.
func (v *Vault) ringChanges(ctx context.Context, ring *keyring, e *Event, change func(*storedRing) bool) ([]Change, error) {
	row, err := v.store.Get(ctx, KindKeyring, keyringRow)
	if err != nil {
		return nil, err
	}
	next, root, err := unsealRing(row, v.keys.roots())
	switch {
	case err != nil:
		return nil, err
	case next.Generation != ring.Generation:
		return nil, ErrConflict
	case !change(&next):
		return nil, nil
	}
	next.Generation++
	sealed, err := sealRing(next, root, row.Version+1) // the one that it has: another node may have moved the vault to that, and others may have no other any more
	if err != nil {
		return nil, err
	}
	generation := Change{OpUpdate, Row{Kind: KindKeyring, ID: generationRow, Version: next.Generation}}
	if next.Generation == 1 {
		generation.Op = OpInsert
	}
	changes := []Change{{OpUpdate, sealed}, generation}
	if e != nil && !v.trail.Off {
		e.clean()
		event, err := v.sealRecord(ring, e, 1)
		if err != nil {
			return nil, err
		}
		changes = append(changes, Change{OpInsert, event})
	}
	return changes, nil
}

// oldUses are the uses of which there are keys that only open.
func (k *keyring) oldUses() (uses []string) {
	for _, use := range sealingUses {
		if len(k.opening[use]) > 1 {
			uses = append(uses, use)
		}
	}
	return uses
}

// promote has the newest key of each use seal, in the ring of a generation.
func promote(ring *storedRing, generation uint64, now time.Time) bool {
	if ring.Generation != generation || ring.Rekey == nil || !ring.Rekey.Sealing.IsZero() {
		return false
	}
	ring.Rekey.Sealing = now.UTC()
	slices.Reverse(ring.Keys) // the first of a use seals
	return true
}

// drop takes the keys of uses that only open out of the ring of a generation, the one that every row was looked at by, and ends the rekey when no such keys are left.
func drop(ring *storedRing, generation uint64, uses []string, now time.Time) bool {
	if ring.Generation != generation || ring.Rekey == nil || ring.Rekey.Sealing.IsZero() {
		return false
	}
	seen, old := make(map[string]bool), 0
	n := len(ring.Keys)
	ring.Keys = slices.DeleteFunc(ring.Keys, func(k storedKey) bool {
		only := seen[k.Use]
		seen[k.Use] = true
		if only && !slices.Contains(uses, k.Use) {
			old++
		}
		return only && slices.Contains(uses, k.Use)
	})
	if old == 0 {
		ring.Rekey, ring.Rekeyed = nil, now.UTC()
	}
	return old == 0 || len(ring.Keys) < n
}

// rekeyEvent tells how a rekey came to its end, or why it does not.
func (v *Vault) rekeyEvent(ctx context.Context, step string, found *damage) *Event {
	e := v.NewEvent(ctx, EventVaultRekey)
	r := &v.keys.rekey
	r.mu.Lock()
	resealed := r.resealed
	r.mu.Unlock()
	e.Details = map[string]string{"step": step, "resealed": strconv.Itoa(resealed)}
	if found.count > 0 {
		e.Details["damaged"] = strconv.Itoa(found.count)
	}
	return e
}
