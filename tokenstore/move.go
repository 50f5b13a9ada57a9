package tokenstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

const (
	// drainTime bounds how long a move waits for refreshes under way.
	drainTime = 2 * time.Minute

	// settleTime is how long accounts are waited for that are stored as refreshing, and of which nobody has the lease any more: whoever had it may have renewed tokens
	// that could not be saved, and tries again every few seconds.
	settleTime = 10 * time.Second

	// drainPoll is how often it is looked.
	drainPoll = 200 * time.Millisecond

	// undoTime bounds what is still done when a move was broken off.
	undoTime = 10 * time.Second
)

// Move copies a vault from one store to another, while the source serves read-only, and compares both. Rows are copied as they are: nothing is opened, so no key is
// needed. However it was cut off, it goes on where it was when it is run again.
type Move struct {
	From, To Movable

	// Source and Target are the stores in words, for people.
	Source, Target string

	// Vault is the identity of the vault that is moved.
	Vault string

	// Leased reports whether the row is of an account that somebody refreshes now. Default: accounts stored as refreshing are.
	Leased func(Row) bool

	// Progress, when set, is told how far the move is.
	Progress func(Progress)

	tried  Freeze // the last state that the source was to come into
	frozen Freeze // the state of the source in which it was copied at last, and compared

	drain, settle, poll time.Duration // those above, where tests have no other
}

// The steps of a move.
const (
	MoveCopying   Step = "copying"   // while the source serves
	MoveDraining  Step = "draining"  // refreshes under way, Done of which are waited for
	MoveFinishing Step = "finishing" // copying what has changed, while the source serves read-only
	MoveVerifying Step = "verifying"
)

// ErrMove is the error of a move that makes no sense, or is not to be.
var ErrMove = errors.New("cannot be moved")

func noMove(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMove, fmt.Errorf(format, args...))
}

// Identity tells this vault from all others, whatever store it is in and key it is encrypted with. It says nothing else.
func (v *Vault) Identity() string {
	sum := sha256.Sum256(appendSized(appendSized(nil, "gw.vault.identity"), v.ring().instance))
	return hex.EncodeToString(sum[:16])
}

// Leased reports whether the row is of an account that somebody refreshes now. A lease that was given up is nobody's.
func (v *Vault) Leased(row Row) bool {
	acc := new(Account)
	if row.Kind != KindAccount || row.State != string(StateRefreshing) || v.unsealRecord(acc.layout(), row, acc) != nil {
		return false
	}
	return acc.Lease.Owner != "" && v.now().Before(acc.Lease.Until)
}

// Check returns why there can be no move, without beginning it, or what is to come: whether the target holds an older copy of the vault, or a part of it.
func (m *Move) Check(ctx context.Context) (copied bool, err error) {
	if err := m.checkSource(ctx); err != nil {
		return false, err
	}
	f, whole, err := m.checkTarget(ctx)
	return whole || f.Frozen(), err
}

// checkSource returns why the source cannot be moved to the target.
func (m *Move) checkSource(ctx context.Context) error {
	f, err := m.From.Frozen(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", m.Source, err)
	case !f.Frozen(), f.To == m.Target && (f.State == FreezeDraining || f.State == FreezeMoving || f.State == FreezeEnding):
		return nil
	default:
		return noMove("%s: %s", m.Source, f)
	}
}

// checkTarget returns why the target cannot be filled, and otherwise the state that it is in. It reports whether the target is whole: a move had come to its end there, but not in
// the source.
func (m *Move) checkTarget(ctx context.Context) (f Freeze, whole bool, err error) {
	f, err = m.To.Frozen(ctx)
	if err != nil {
		return f, false, fmt.Errorf("%s: %w", m.Target, err)
	}
	switch {
	case (f.State == FreezeFilling || f.State == FreezeMoved) && f.Vault == m.Vault:
		return f, false, nil
	case f.State == FreezeFilling || f.State == FreezeMoved:
		return f, false, noMove("%s holds another vault: %s; empty it, or name another", m.Target, f)
	case f.Frozen():
		return f, false, noMove("%s: %s", m.Target, f)
	}
	empty, err := m.targetEmpty(ctx)
	if err != nil || empty {
		return f, false, err
	}
	return f, true, m.checkWhole(ctx)
}

func (m *Move) targetEmpty(ctx context.Context) (bool, error) {
	for _, kind := range Kinds() {
		rows, err := m.To.List(ctx, kind, Query{Limit: 1})
		if err != nil {
			return false, fmt.Errorf("%s: %w", m.Target, err)
		}
		if len(rows) > 0 {
			return false, nil
		}
	}
	return true, nil
}

// checkWhole returns why a target with a vault that may be served is not the end of this move.
func (m *Move) checkWhole(ctx context.Context) error {
	f, err := m.From.Frozen(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", m.Source, err)
	case f.State == FreezeEnding && f.To == m.Target:
		return nil
	default:
		return noMove("%s holds a vault that is served, or was, and has not been moved away; empty it, or name another", m.Target)
	}
}

// Run moves the vault, and returns what was compared. When it has returned without an error, the target can be served, and the source is served read-only for as long as it is
// open. When it fails, the source is served as before, but for what fails at the very end.
func (m *Move) Run(ctx context.Context) ([]MovedKind, error) {
	if err := m.checkSource(ctx); err != nil {
		return nil, err
	}
	filling, whole, err := m.checkTarget(ctx)
	if err != nil {
		return nil, err
	}
	switch source, err := m.From.Frozen(ctx); {
	case err == nil && source.State == FreezeEnding && !whole && !filling.Frozen():
		return nil, noMove("%s: %s, and that is empty now; only if nobody has used the vault there, have this one served again with caddy oauth-proxy migrate --thaw", m.Source, source)
	case whole || err == nil && source.State == FreezeEnding:
		return nil, m.finish(ctx)
	}
	if err := m.begin(ctx, filling); err != nil {
		return nil, err
	}
	kinds, err := m.fill(ctx)
	if err != nil {
		return kinds, m.undo(ctx, err)
	}
	return kinds, m.finish(ctx)
}

// begin marks the target.
func (m *Move) begin(ctx context.Context, was Freeze) error {
	if was.State == FreezeFilling {
		return nil
	}
	filling := m.state(FreezeFilling)
	if err := m.To.Freeze(ctx, was, filling); err != nil {
		return fmt.Errorf("%s: %w", m.Target, err)
	}
	if was.Frozen() {
		return nil
	}
	empty, err := m.targetEmpty(ctx) // still: nobody writes to it from now on
	if err != nil || empty {
		return err
	}
	if err := m.To.Freeze(ctx, filling, was); err != nil {
		return fmt.Errorf("%s: %w", m.Target, err)
	}
	return noMove("%s is in use since just now; empty it, or name another", m.Target)
}

func (m *Move) state(s FreezeState) Freeze {
	return Freeze{State: s, Vault: m.Vault, From: m.Source, To: m.Target, Since: m.From.Now().UTC().Truncate(time.Millisecond)}
}

// fill copies, and compares. What takes long is done before the source is frozen.
func (m *Move) fill(ctx context.Context) ([]MovedKind, error) {
	if err := m.copyAll(ctx, MoveCopying); err != nil {
		return nil, err
	}
	if err := m.freeze(ctx); err != nil {
		return nil, err
	}
	if err := m.copyAll(ctx, MoveFinishing); err != nil {
		return nil, err
	}
	kinds, err := m.compare(ctx)
	if err != nil {
		return nil, err
	}
	return kinds, Different(kinds)
}

// freeze freezes the source, and waits for refreshes under way.
func (m *Move) freeze(ctx context.Context) error {
	f, err := m.From.Frozen(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Source, err)
	}
	switch f.State {
	case FreezeMoving:
		m.frozen = f
		return nil
	case FreezeDraining:
	default:
		draining := m.state(FreezeDraining)
		if err := m.freezeSource(ctx, f, draining); err != nil {
			return err
		}
		f = draining
	}
	for {
		if err := m.awaitRefreshes(ctx); err != nil {
			return err
		}
		m.frozen = m.state(FreezeMoving)
		if err := m.freezeSource(ctx, f, m.frozen); err != nil {
			return err
		}
		open, err := m.refreshing(ctx)
		if err != nil {
			return err
		}
		if late, err := m.leased(ctx, open); err != nil || late == 0 {
			return err
		}
		f = m.state(FreezeDraining) // once more: somebody took over a refresh whose lease had run out, after it was looked at
		if err := m.freezeSource(ctx, m.frozen, f); err != nil {
			return err
		}
	}
}

func (m *Move) freezeSource(ctx context.Context, was, now Freeze) error {
	m.tried = now
	if err := m.From.Freeze(ctx, was, now); err != nil {
		return fmt.Errorf("%s: %w", m.Source, err)
	}
	return nil
}

// awaitRefreshes waits until nobody refreshes an account. No refresh begins meanwhile.
func (m *Move) awaitRefreshes(ctx context.Context) error {
	open, err := m.refreshing(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	for {
		leased, err := m.leased(ctx, open)
		if err != nil {
			return err
		}
		m.tell(MoveDraining, KindAccount, leased, len(open))
		waited := time.Since(began)
		switch {
		case len(open) == 0, leased == 0 && waited >= orDefault(m.settle, settleTime):
			return nil
		case waited >= orDefault(m.drain, drainTime):
			return fmt.Errorf("%d accounts are being refreshed for %s: look at the providers, and try again", leased, orDefault(m.drain, drainTime))
		}
		if !pause(ctx, orDefault(m.poll, drainPoll)) {
			return ctx.Err()
		}
	}
}

// leased counts the accounts that somebody refreshes now, and takes those out of open that are not stored as refreshing any more.
func (m *Move) leased(ctx context.Context, open map[string]bool) (n int, err error) {
	for id := range open {
		row, err := m.From.Get(ctx, KindAccount, id)
		switch {
		case errors.Is(err, ErrNotFound) || err == nil && row.State != string(StateRefreshing):
			delete(open, id)
		case err != nil:
			return n, fmt.Errorf("%s: %w", m.Source, err)
		case m.Leased == nil || m.Leased(row):
			n++
		}
	}
	return n, nil
}

func orDefault(d, standard time.Duration) time.Duration {
	if d == 0 {
		return standard
	}
	return d
}

// refreshing are the accounts that are stored as refreshing.
func (m *Move) refreshing(ctx context.Context) (map[string]bool, error) {
	found := make(map[string]bool)
	for c := newRowCursor(m.From, KindAccount); ; {
		row, err := c.next(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Source, err)
		}
		if row == nil {
			return found, nil
		}
		if row.State == string(StateRefreshing) {
			found[row.ID] = true
		}
	}
}

func (m *Move) tell(step Step, kind Kind, done, total int) {
	if m.Progress != nil {
		m.Progress(Progress{Step: step, Kind: kind, Done: done, Total: total})
	}
}
