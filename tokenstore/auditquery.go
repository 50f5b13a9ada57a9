package tokenstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// ErrCursor says that EventFilter.After is not what an earlier page gave as next.
var ErrCursor = errors.New("not a place in the audit trail: give what the page before gave as next, with the same filter")

// EventFilter selects events of the audit trail: those that all of its fields fit.
type EventFilter struct {
	// Types are those that are wanted; all when empty.
	Types []string

	UserID, ClientID, Grant, Account, Consent, JTI, Proxy, Provider string

	// Text is somewhere in the event, in whatever case.
	Text string

	// From and Until bound the time: From is in, Until is not. Zero is no bound.
	From, Until time.Time

	// After is the next of the page before. Limit is the size of a page, 100 when zero, 1000 at most.
	After string
	Limit int
}

// Bounds on what one call of Events reads.
const (
	maxEventPage     = 1000
	maxWaitingRead   = 20_000
	maxSegmentsRead  = 1000
	maxEventsScanned = 20_000
)

// Events returns a page of the audit trail, the newest first: in the order in which the events were chained, which for those of several nodes may be
// some seconds off the order of their times. next is where to go on, empty at the end. A call reads no more than so much: where few events fit the filter, a
// page may have few or none and still have a next. A part of the trail that does not open does not hide the rest: the events are returned together
// with an ErrTampered that names it. Any other error comes with no events; ErrCursor is one.
func (v *Vault) Events(ctx context.Context, f EventFilter) (events []*Event, next string, err error) {
	at, err := parseCursor(f.After)
	if err != nil {
		return nil, "", err
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	f.Limit = min(f.Limit, maxEventPage)
	w := &eventWalk{vault: v, filter: f, want: f.wanted()}
	if !at.chained {
		if at, err = w.recent(ctx, at, f.After == ""); err != nil {
			return nil, "", err
		}
	}
	if at.chained {
		if at, err = w.chained(ctx, at); err != nil {
			return nil, "", err
		}
	}
	return w.events, at.String(), w.faults
}

// Event returns the event of this id. Errors: ErrNotFound, also for one past its time, ErrTampered, and those of the store.
func (v *Vault) Event(ctx context.Context, id string) (*Event, error) {
	at := eventTime(id)
	if at.IsZero() {
		return nil, fmt.Errorf("%s %w", KindEvent, ErrNotFound)
	}
	f := EventFilter{From: at, Until: at.Add(time.Millisecond), Limit: maxEventPage}
	var faults error
	for {
		events, next, err := v.Events(ctx, f)
		if err != nil && !errors.Is(err, ErrTampered) {
			return nil, err
		}
		faults = errors.Join(faults, err)
		if i := slices.IndexFunc(events, func(e *Event) bool { return e.ID == id }); i >= 0 {
			return events[i], nil
		}
		if next == "" {
			return nil, errors.Join(faults, fmt.Errorf("%s %w", KindEvent, ErrNotFound))
		}
		f.After = next
	}
}

// cursor is a place in the trail. At first the walk is among the events that waited when it began, when the head had a number: what is left
// are those below id that wait still or were chained beyond that segment. Then it is in the chain: what is left are the lines below line
// of the segment, and all segments before.
type cursor struct {
	chained bool
	segment uint64
	id      string
	line    int
}

const allLines = maxSegmentEvents

func (c cursor) String() string {
	switch {
	case c.chained && c.segment == 0:
		return ""
	case c.chained:
		return fmt.Sprintf("s.%d.%d", c.segment, c.line)
	default:
		return fmt.Sprintf("w.%d.%s", c.segment, c.id)
	}
}

func parseCursor(s string) (c cursor, err error) {
	if s == "" {
		return c, nil
	}
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return c, ErrCursor
	}
	if c.segment, err = strconv.ParseUint(parts[1], 10, 48); err != nil {
		return c, ErrCursor
	}
	switch parts[0] {
	case "s":
		c.chained = true
		if c.line, err = strconv.Atoi(parts[2]); err != nil || c.line < 0 || c.line > allLines {
			return c, ErrCursor
		}
	case "w":
		if c.id = parts[2]; eventTime(c.id).IsZero() {
			return c, ErrCursor
		}
	default:
		return c, ErrCursor
	}
	return c, nil
}

// eventWalk collects the events of one page.
type eventWalk struct {
	vault  *Vault
	filter EventFilter
	want   [][]byte

	events  []*Event
	scanned int
	faults  error
}

func (w *eventWalk) full() bool { return len(w.events) >= w.filter.Limit }

// recent walks the events that are not chained yet, or were not when the walk began. The head is read first: an event that is chained
// meanwhile is found beyond it.
func (w *eventWalk) recent(ctx context.Context, at cursor, begins bool) (cursor, error) {
	head, err := w.vault.head(ctx)
	if err != nil {
		return at, err
	}
	if begins {
		at.segment = head.Number
	}
	found, err := w.waiting(ctx)
	if err != nil {
		return at, err
	}
	if head, err = w.vault.head(ctx); err != nil {
		return at, err
	}
	const most = maxWaitingRead / maxSegmentEvents
	for n := at.segment + 1; n <= min(head.Number, at.segment+most); n++ {
		lines, err := w.lines(ctx, n)
		if err != nil {
			return at, err
		}
		for _, line := range lines {
			if e := new(Event); json.Unmarshal(line, e) == nil {
				found[e.ID] = e
			}
		}
	}
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(found))) {
		if at.id != "" && id >= at.id {
			continue
		}
		if w.full() {
			return at, nil
		}
		w.take(found[id])
		at.id = id
	}
	return w.start(ctx, at.segment)
}

// waiting reads the rows of events that are not chained.
func (w *eventWalk) waiting(ctx context.Context) (map[string]*Event, error) {
	found := make(map[string]*Event)
	for after := ""; len(found) < maxWaitingRead; {
		rows, err := w.vault.store.List(ctx, KindEvent, Query{After: after, Limit: maxSegmentEvents})
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			after = row.ID
			e := new(Event)
			row.Kind = KindEvent
			if err := w.vault.openRecord(row, e); err != nil {
				w.faults = errors.Join(w.faults, err)
				continue
			}
			found[e.ID] = e
		}
		if len(rows) < maxSegmentEvents {
			break
		}
	}
	return found, nil
}

// lines reads the events of a segment, none of one that is missing or does not open.
func (w *eventWalk) lines(ctx context.Context, number uint64) ([][]byte, error) {
	_, lines, err := w.vault.segment(ctx, number)
	switch {
	case errors.Is(err, ErrTampered):
		w.faults = errors.Join(w.faults, err)
		return nil, nil
	case errors.Is(err, ErrNotFound): // past its time, or removed: VerifyAudit tells which
		return nil, nil
	}
	return lines, err
}

// start finds where in the chain to begin: at a segment, or at an earlier one where everything behind that is too young. Segments before number n
// hold no event newer than n's PreviousNewest, so that this grows with n and can be searched. What was chained much later than
// it happened breaks the order the other way; the head tells where that ends.
func (w *eventWalk) start(ctx context.Context, last uint64) (cursor, error) {
	at := cursor{chained: true, segment: last, line: allLines}
	oldest, err := w.vault.oldestSegment(ctx)
	if err != nil || oldest == 0 || oldest > last {
		return cursor{chained: true}, err
	}
	if w.filter.Until.IsZero() {
		return at, nil
	}
	head, err := w.vault.head(ctx)
	if err != nil {
		return at, err
	}
	young := func(n uint64) bool { // whether segments from n on are too young
		seg, _, err := w.vault.segment(ctx, n)
		return err == nil && eventTime(seg.PreviousNewest).Sub(w.filter.Until) > lateness
	}
	first := oldest + uint64(sort.Search(int(last-oldest+1), func(i int) bool { return young(oldest + uint64(i)) })) //nolint:gosec // both small and not negative
	at.segment = min(last, max(first-1, head.Late, oldest))
	return at, nil
}

// chained walks the chain from a place towards its beginning.
func (w *eventWalk) chained(ctx context.Context, at cursor) (cursor, error) {
	end := cursor{chained: true}
	oldest, err := w.vault.oldestSegment(ctx)
	if err != nil || oldest == 0 {
		return end, err
	}
	for read := 0; at.segment >= oldest; read++ {
		if w.full() || read >= maxSegmentsRead || w.scanned >= maxEventsScanned {
			return at, nil
		}
		seg, lines, err := w.vault.segment(ctx, at.segment)
		switch {
		case errors.Is(err, ErrTampered):
			w.faults = errors.Join(w.faults, err)
		case err != nil && !errors.Is(err, ErrNotFound):
			return at, err
		}
		for at.line = min(at.line, len(lines)); at.line > 0; at.line-- {
			if w.full() {
				return at, nil
			}
			w.line(lines[at.line-1])
		}
		if seg != nil && !w.filter.From.IsZero() && eventTime(seg.PreviousNewest).Before(w.filter.From) {
			return end, nil // all that comes before is older
		}
		at.segment, at.line = at.segment-1, allLines
	}
	return end, nil
}

// line takes the event of a line when it fits. Most lines do not, and are told by their text alone.
func (w *eventWalk) line(line []byte) {
	w.scanned++
	for _, want := range w.want {
		if !bytes.Contains(line, want) {
			return
		}
	}
	if e := new(Event); json.Unmarshal(line, e) == nil {
		w.take(e)
	}
}

func (w *eventWalk) take(e *Event) {
	if w.filter.fits(e) {
		w.events = append(w.events, e)
	}
}

// wanted are the texts that the line of every event that fits contains.
func (f EventFilter) wanted() [][]byte {
	var want [][]byte
	values := []string{f.UserID, f.ClientID, f.Grant, f.Account, f.Consent, f.JTI, f.Proxy, f.Provider}
	if len(f.Types) == 1 {
		values = append(values, f.Types[0])
	}
	for _, value := range values {
		if value == "" {
			continue
		}
		if text, err := json.Marshal(value); err == nil {
			want = append(want, text)
		}
	}
	return want
}

func (f EventFilter) fits(e *Event) bool {
	for _, pair := range [][2]string{
		{f.UserID, e.UserID}, {f.ClientID, e.ClientID}, {f.Grant, e.Grant}, {f.Account, e.Account}, {f.Consent, e.Consent}, {f.JTI, e.JTI},
		{f.Proxy, e.Proxy}, {f.Provider, e.Provider},
	} {
		if pair[0] != "" && pair[0] != pair[1] {
			return false
		}
	}
	switch {
	case len(f.Types) > 0 && !slices.Contains(f.Types, e.Type):
		return false
	case !f.From.IsZero() && e.Time.Before(f.From):
		return false
	case !f.Until.IsZero() && !e.Time.Before(f.Until):
		return false
	}
	return f.Text == "" || e.contains(strings.ToLower(f.Text))
}

// contains reports whether a text in lower case is somewhere in the event.
func (e *Event) contains(text string) bool {
	for _, s := range []string{
		e.ID, e.Type, e.Outcome, e.Actor.Kind, e.Actor.ID, e.Actor.Label, e.UserID, e.User, e.ClientID, e.Client, e.Proxy, e.Provider,
		e.Grant, e.Account, e.Consent, e.JTI, e.Address, e.Reason,
	} {
		if strings.Contains(strings.ToLower(s), text) {
			return true
		}
	}
	for _, s := range e.Details {
		if strings.Contains(strings.ToLower(s), text) {
			return true
		}
	}
	return false
}
