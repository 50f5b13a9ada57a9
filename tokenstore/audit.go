package tokenstore

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// AuditOptions says how a vault keeps its audit trail. The zero value keeps events for 90 days.
type AuditOptions struct {
	// Off has no event kept. Options.Recorded is told of each all the same.
	Off bool

	// Retention is how long events are kept; 90 days when zero. A shorter one than before concerns new events, and these only
	// once all older ones are past their time: the trail loses its old end and never a part of the middle.
	Retention time.Duration

	// Every is how long an event waits at most before it is chained; 10 seconds when zero. A thousand that wait are chained at once.
	Every time.Duration

	// Chained, when set, is told of every segment that this vault adds to the chain. What it is told, kept elsewhere, is
	// what VerifyAudit can hold the trail against.
	Chained func(AuditSeal)

	// Failed, when set, is told of errors of KeepAudit, which goes on and tries again.
	Failed func(error)
}

const (
	defaultAuditRetention = 90 * 24 * time.Hour
	defaultAuditEvery     = 10 * time.Second

	// noteEvery is how long KeepAudit leaves at least between two writes of noted events, so that a flood of refusals does not
	// become a flood of syncs.
	noteEvery = 100 * time.Millisecond

	// maxNoted bounds how many noted events wait to be written, and noteBatch how many one write takes.
	maxNoted  = 4096
	noteBatch = 256

	// notesASecond bounds what strangers can have stored who are refused all the time: so many events in the long run, and maxNoted at once.
	notesASecond = 10

	// droppedEvery is how long passes at least between two events that tell how many were dropped.
	droppedEvery = time.Minute
)

// trail is what a Vault knows of its audit trail beside the store.
type trail struct {
	AuditOptions
	recorded func(*Event)

	mu      sync.Mutex // of the following
	noted   []*Event   // not written yet, the oldest first
	unsure  int        // how many of them, from the first on, a write tried that failed and may have been made all the same
	dropped uint64     // that found no room, and of which no event tells yet
	tells   time.Time  // when the last event told of those
	empty   time.Time  // when as much as was noted could have been noted, by notesASecond
	told    map[string]struct{}

	wake    chan struct{} // something is noted
	full    chan struct{} // a thousand events wait
	waiting atomic.Int64  // events recorded here since the last chaining

	writing  sync.Mutex // one write of noted events at a time
	chaining sync.Mutex // one chaining at a time
	seen     uint64     // the greatest number of a segment that this vault has seen as the head; under chaining
}

func newTrail(o Options) *trail {
	t := &trail{AuditOptions: o.Audit, recorded: o.Recorded, told: make(map[string]struct{}), wake: make(chan struct{}, 1), full: make(chan struct{}, 1)}
	if t.Retention == 0 {
		t.Retention = defaultAuditRetention
	}
	if t.Every == 0 {
		t.Every = defaultAuditEvery
	}
	return t
}

// wasRecorded tells of events that are durable.
func (t *trail) wasRecorded(events ...*Event) {
	if len(events) == 0 {
		return
	}
	if t.waiting.Add(int64(len(events))) >= maxSegmentEvents {
		signal(t.full)
	}
	if t.recorded != nil {
		for _, e := range events {
			t.recorded(e)
		}
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Note records an event of which nothing else is saved, as a refusal. It never waits: the event is written soon, together with others,
// while KeepAudit runs or by FlushAudit. When too many wait already it is not kept, and an event of the type audit.dropped says how many were not.
func (v *Vault) Note(e *Event) {
	e.clean()
	t := v.trail
	if t.Off {
		t.wasRecorded(e)
		return
	}
	t.mu.Lock()
	room := len(t.noted) < maxNoted && t.mayNote(v.now())
	if room {
		t.noted = append(t.noted, e)
	} else {
		t.dropped++
	}
	t.mu.Unlock()
	if room {
		signal(t.wake)
	} else if t.recorded != nil {
		t.recorded(e)
	}
}

// mayNote counts an event that is to be noted, unless there were too many of late.
func (t *trail) mayNote(now time.Time) bool {
	const each = time.Second / notesASecond
	if t.empty.Before(now) || t.empty.Sub(now) > maxNoted*each { // the latter where the clock was put back
		t.empty = now
	}
	if t.empty.Sub(now) > (maxNoted-1)*each {
		return false
	}
	t.empty = t.empty.Add(each)
	return true
}

// AuditWaiting is how many noted events are not written yet.
func (v *Vault) AuditWaiting() int {
	v.trail.mu.Lock()
	defer v.trail.mu.Unlock()
	return len(v.trail.noted)
}

// tampered notes that a sealed value did not open, once for each row.
func (v *Vault) tampered(row Row) {
	const most = 10_000
	t, id := v.trail, string(row.Kind)+"/"+row.ID
	t.mu.Lock()
	_, told := t.told[id]
	if !told && len(t.told) < most {
		t.told[id] = struct{}{}
	}
	told = told || len(t.told) >= most
	t.mu.Unlock()
	if told {
		return
	}
	e := v.NewEvent(context.Background(), EventVaultTampered).Refused("a sealed value does not open: it was changed, moved or cut, or is of another vault")
	e.Details = map[string]string{"kind": string(row.Kind), "id": row.ID}
	v.Note(e)
}

// KeepAudit writes noted events and chains those that wait, in the background, until stop is called. stop waits until what is being
// written is, and writes no more: FlushAudit does that.
func (v *Vault) KeepAudit() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { v.keepNoted(ctx) })
	running.Go(func() { v.keepChained(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// keepNoted writes what is noted.
func (v *Vault) keepNoted(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.trail.wake:
		}
		if err := v.writeNoted(context.WithoutCancel(ctx)); err != nil {
			v.trail.failed(err)
			signal(v.trail.wake)
			if !pause(ctx, time.Second) {
				return
			}
		}
		if !pause(ctx, noteEvery) {
			return
		}
	}
}

// keepChained chains what waits.
func (v *Vault) keepChained(ctx context.Context) {
	tick := time.NewTicker(v.trail.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-v.trail.full:
		}
		if err := v.chain(context.WithoutCancel(ctx)); err != nil {
			v.trail.failed(err)
		}
		if !pause(ctx, min(v.trail.Every, time.Second)) {
			return
		}
	}
}

func (t *trail) failed(err error) {
	if t.Failed != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrReadOnly) {
		t.Failed(err)
	}
}

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// FlushAudit writes what is noted and chains every event that waits.
func (v *Vault) FlushAudit(ctx context.Context) error {
	return errors.Join(v.writeNoted(ctx), v.chain(ctx))
}

// writeNoted writes the noted events, batch by batch. Those that could not be written stay noted.
func (v *Vault) writeNoted(ctx context.Context) error {
	t := v.trail
	t.writing.Lock()
	defer t.writing.Unlock()
	for {
		batch, unsure := v.nextNoted(ctx)
		if len(batch) == 0 {
			return nil
		}
		if unsure { // and chained meanwhile: an insert would not conflict
			_, err := v.Event(ctx, batch[0].ID)
			if err == nil {
				v.forgetNoted(batch)
				continue
			}
			if !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		writes := make([]Write, len(batch))
		for i, e := range batch {
			writes[i] = RecordEvent(e)
		}
		apply := func(ctx context.Context, changes []Change) error { return v.store.Apply(ctx, changes...) }
		err := v.applySealed(ctx, apply, func(ring *keyring) ([]Change, error) { return v.changes(ring, writes) })
		// A conflict means that an earlier write, whose outcome was not known, was made after all: nobody else makes these ids.
		if err != nil && !errors.Is(err, ErrConflict) {
			return err
		}
		v.forgetNoted(batch)
	}
}

// forgetNoted takes a batch that was written off the queue.
func (v *Vault) forgetNoted(batch []*Event) {
	t := v.trail
	t.mu.Lock()
	t.noted, t.unsure = append([]*Event(nil), t.noted[len(batch):]...), 0
	t.mu.Unlock()
	t.wasRecorded(batch...)
}

// nextNoted is the next batch, with an event about those that were dropped where there were any. One whose write failed comes again as it was, since it
// was made whole or not at all.
func (v *Vault) nextNoted(ctx context.Context) (batch []*Event, unsure bool) {
	t := v.trail
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unsure > 0 {
		return append([]*Event(nil), t.noted[:t.unsure]...), true
	}
	if now := v.now(); t.dropped > 0 && len(t.noted) < maxNoted && now.Sub(t.tells) >= droppedEvery {
		t.tells = now
		e := v.NewEvent(ctx, EventAuditDropped).Refused("more happened than could be written: these events are only in the log")
		e.Actor, e.Address = Actor{Kind: ActorGateway}, ""
		e.Details = map[string]string{"count": strconv.FormatUint(t.dropped, 10)}
		t.noted, t.dropped = append(t.noted, e), 0
	}
	t.unsure = min(len(t.noted), noteBatch)
	return append([]*Event(nil), t.noted[:t.unsure]...), false
}

// TakeNoted takes out the noted events that are not written yet, for another vault on the same records to note.
func (v *Vault) TakeNoted() []*Event {
	t := v.trail
	t.writing.Lock()
	defer t.writing.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	noted := t.noted
	t.noted, t.unsure = nil, 0
	return noted
}
