package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// resealRows and resealBytes bound what is sealed anew at once: whoever changes one of the rows waits so long, and nodes are told of each.
	resealRows  = 50
	resealBytes = 128 << 10

	// resealPause is the least pause after that. It is as long as it took, where that is longer, so that others have the storage half of the time at least.
	resealPause = 2 * time.Millisecond

	// keysEvery is how often it is looked at the ring of which nothing was heard, and rekeyEvery while a rekey goes on, perhaps elsewhere.
	keysEvery  = time.Minute
	rekeyEvery = 5 * time.Second
)

var errRingChanged = errors.New("the vault's keys were changed by another process meanwhile")

// KeepKeys follows the vault's keys as they change, and goes on with a rekey wherever one is, in the background, until stop is called, or LeaveRekeys for the latter.
func (v *Vault) KeepKeys() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	unwatch := v.store.Watch(KindKeyring, func(string) { signal(v.keys.rekey.wake) })
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			v.followKeys(ctx)
		}
	})
	return func() {
		cancel()
		unwatch()
		running.Wait()
	}
}

// LeaveRekeys has KeepKeys leave rekeys to others from now on, one that it is at as well: of a process's vaults, the one that operators ask how it does is to do it.
func (v *Vault) LeaveRekeys() { v.keys.rekey.leave() }

// followKeys reads the ring, does what is to be done, and waits until something may have changed.
func (v *Vault) followKeys(ctx context.Context) {
	r, every := &v.keys.rekey, keysEvery
	ring, err := v.readRing(ctx)
	if err == nil && ring.Rekey != nil {
		every = rekeyEvery
		r.mu.Lock()
		due := !v.now().Before(r.next) || r.next.After(v.now().Add(2*heldTime))
		r.mu.Unlock()
		if due && r.left.Err() == nil {
			working, cancel := context.WithCancel(ctx)
			unheard := context.AfterFunc(r.left, cancel)
			ran, err := v.RunJob(working, rekeyJob, 0, v.rekey)
			unheard()
			cancel()
			r.mu.Lock()
			if ran || err != nil { // while the job is another's, or still this process's because it could not be given back, what stopped the last attempt is not over
				r.err = err
			}
			r.mu.Unlock()
			v.keys.tell(err)
		}
	} else if err == nil {
		r.mu.Lock()
		r.err = nil // of a rekey that ended elsewhere
		r.mu.Unlock()
	}
	timer := time.NewTimer(every)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-r.wake:
	}
}

// rekey goes on with a rekey as far as it can.
func (v *Vault) rekey(ctx context.Context) (err error) {
	ring, err := v.readRing(ctx)
	if err != nil || ring.Rekey == nil {
		return err
	}
	r := &v.keys.rekey
	r.begin(ring.Rekey.Began)
	defer func() { r.end(err) }()
	if ring.Rekey.Sealing.IsZero() {
		v.rekeyTell(RekeyAnnouncing, "", 0, 0)
		if !pause(ctx, orDefault(r.announce, announceTime)) {
			return ctx.Err()
		}
		announced := ring.Generation
		ring, err = v.changeRing(ctx, nil, func(ring *storedRing) bool { return promote(ring, announced, v.now()) })
		if err != nil || ring.Rekey == nil || ring.Rekey.Sealing.IsZero() {
			return err
		}
	}
	uses := ring.oldUses()
	var found damage
	for left := -1; left != 0; {
		if err := v.resealAll(ctx, ring, uses); err != nil {
			return err
		}
		if left, found, err = v.verifyKeys(ctx, ring, uses); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.damage = found
	r.mu.Unlock()
	v.rekeyTell(RekeyEnding, "", 0, 0)
	if !pause(ctx, orDefault(r.forget, forgetTime)) {
		return ctx.Err()
	}
	return v.dropKeys(ctx, ring, uses, found)
}

// dropKeys drops the old keys of uses, but those that may be needed, and says when it is worth while to look again.
func (v *Vault) dropKeys(ctx context.Context, by *keyring, uses []string, found damage) error {
	now, r := v.now(), &v.keys.rekey
	next := time.Time{}
	unneeded := slices.DeleteFunc(slices.Clone(uses), func(use string) bool {
		last := by.Rekey.Sealing.Add(v.keys.messages)
		switch {
		case found.held[use]:
			next = now.Add(heldTime)
		case use == useTxn && now.Before(last) && !by.Rekey.Sealing.After(now): // the latter where the clock was put back
			next = last
		default:
			return false
		}
		return true
	})
	if len(found.held) > 0 {
		next = now.Add(heldTime)
	}
	e := v.rekeyEvent(ctx, "done", &found)
	if len(unneeded) < len(uses) {
		e = nil
	}
	if len(unneeded) > 0 {
		if _, err := v.changeRing(ctx, e, func(ring *storedRing) bool { return drop(ring, by.Generation, unneeded, v.now()) }); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.next = next
	told := r.told
	r.told = len(found.held) > 0
	r.mu.Unlock()
	if len(found.held) == 0 {
		return nil
	}
	err := fmt.Errorf("%d rows do not open, such as %s %s, and the old keys are kept for their sake: restore them from a backup, or delete them; it is looked at again in %s",
		found.count, found.rows[0].Kind, found.rows[0].ID, heldTime)
	if !told {
		v.Note(v.rekeyEvent(ctx, "held", &found).Refused(err.Error()))
	}
	return err
}

// begin notes that this process does it.
func (r *rekeying) begin(began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.began.Equal(began) {
		r.began, r.resealed, r.told = began, 0, false
	}
	r.running, r.damage, r.next, r.err = true, damage{}, time.Time{}, nil
}

func (r *rekeying) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running, r.err = false, err
}

func (v *Vault) rekeyTell(step Step, kind Kind, done, total int) {
	r := &v.keys.rekey
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress = Progress{Step: step, Kind: kind, Done: done, Total: total}
}

// eachRow calls visit with the rows of the kinds of uses, page by page.
func (v *Vault) eachRow(ctx context.Context, step Step, of []string, visit func(use string, page []Row) error) error {
	for _, kind := range Kinds() {
		use, sealed := uses[kind]
		if !sealed || !slices.Contains(of, use) {
			continue
		}
		total, err := v.store.Count(ctx, kind)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		done, after, size := 0, "", firstRows
		for {
			v.rekeyTell(step, kind, done, max(done, total))
			page, err := v.store.List(ctx, kind, Query{After: after, Limit: size})
			if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			for i := range page {
				page[i].Kind = kind
			}
			if err := visit(use, page); err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			if len(page) < size {
				break
			}
			done, after, size = done+len(page), page[len(page)-1].ID, pageFor(page)
			if !pause(ctx, time.Millisecond) {
				return ctx.Err()
			}
		}
	}
	return ctx.Err()
}

// resealAll seals all rows anew that an old key has sealed. Those that somebody changes meanwhile have the new one by that.
func (v *Vault) resealAll(ctx context.Context, ring *keyring, of []string) error {
	return v.eachRow(ctx, RekeySealing, of, func(use string, page []Row) error {
		var batch []Row
		size := 0
		for _, row := range page {
			if by, err := sealedBy(row.Sealed); err != nil || by == ring.sealing[use].id {
				continue
			}
			batch, size = append(batch, row), size+len(row.Sealed)
			if len(batch) < resealRows && size < resealBytes {
				continue
			}
			if err := v.resealGently(ctx, ring.Generation, use, batch); err != nil {
				return err
			}
			batch, size = nil, 0
		}
		return v.resealGently(ctx, ring.Generation, use, batch)
	})
}

func (v *Vault) resealGently(ctx context.Context, generation uint64, use string, batch []Row) error {
	if len(batch) == 0 {
		return nil
	}
	began := time.Now()
	n, err := v.reseal(ctx, generation, use, batch)
	if err != nil {
		return err
	}
	r := &v.keys.rekey
	r.mu.Lock()
	r.resealed += n
	r.mu.Unlock()
	if !pause(ctx, max(resealPause, time.Since(began))) {
		return ctx.Err()
	}
	return nil
}

// reseal seals rows anew, but those that do not open and those that somebody has changed, and returns how many.
func (v *Vault) reseal(ctx context.Context, generation uint64, use string, batch []Row) (int, error) {
	n := 0
	err := v.applySealed(ctx, v.apply, func(ring *keyring) ([]Change, error) {
		changes := make([]Change, 0, len(batch)+1)
		if ring.Generation != generation {
			return nil, errRingChanged
		}
		for _, row := range batch {
			plain, err := ring.open(use, ring.rowContext(use, row), row.Sealed)
			if err != nil {
				continue // verifyKeys names it
			}
			row.Sealed = ring.sealing[use].seal(ring.rowContext(use, row), plain)
			changes = append(changes, Change{OpReseal, Row{Kind: row.Kind, ID: row.ID, Version: row.Version, Sealed: row.Sealed}})
		}
		n = len(changes)
		return changes, nil
	})
	switch {
	case !errors.Is(err, ErrConflict):
		return n, err
	case len(batch) == 1:
		return 0, nil
	}
	first, err := v.reseal(ctx, generation, use, batch[:len(batch)/2])
	if err != nil {
		return first, err
	}
	second, err := v.reseal(ctx, generation, use, batch[len(batch)/2:])
	return first + second, err
}

// verifyKey opens a row, and reports whether it was not sealed by the key that seals.
func verifyKey(ring *keyring, use string, row Row) (old bool, err error) {
	by, err := sealedBy(row.Sealed)
	if err != nil {
		return true, err
	}
	_, err = ring.open(use, ring.rowContext(use, row), row.Sealed)
	return by != ring.sealing[use].id, err
}

// verifyAgain is verifyKey for a row that did not open: it may have been changed since it was read, or the keys may have.
func (v *Vault) verifyAgain(ctx context.Context, ring *keyring, use string, kind Kind, id string) (old bool, err error) {
	now, err := v.readRing(ctx)
	switch {
	case err != nil:
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case now.Generation != ring.Generation:
		return false, errRingChanged
	}
	row, err := v.store.Get(ctx, kind, id)
	if err != nil {
		return false, err
	}
	row.Kind, row.ID = kind, id
	return verifyKey(ring, use, row)
}

// verifyKeys opens every row, and returns how many are still sealed by an old key, and those that do not open.
func (v *Vault) verifyKeys(ctx context.Context, ring *keyring, of []string) (left int, found damage, err error) {
	err = v.eachRow(ctx, RekeyVerifying, of, func(use string, page []Row) error {
		for _, row := range page {
			old, err := verifyKey(ring, use, row)
			if err != nil {
				if old, err = v.verifyAgain(ctx, ring, use, row.Kind, row.ID); errors.Is(err, ErrNotFound) {
					continue
				}
				if err != nil && !errors.Is(err, ErrTampered) {
					return err
				}
			}
			switch {
			case err != nil:
				found.add(row, use, old)
				v.tampered(row)
			case old:
				left++
			}
		}
		return nil
	})
	return left, found, err
}
