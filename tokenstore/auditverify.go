package tokenstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"
	"time"
)

// ErrAnchor says that an anchor is not of the form number:hash.
var ErrAnchor = errors.New("an anchor is the number and the hash of a segment, as in 17:9f86d0…: both are in the log line of each segment, and in what an earlier verification said")

// AuditReport is what VerifyAudit found.
type AuditReport struct {
	// Number and Hash are those of the last segment: an anchor for later. Zero and empty when nothing was chained yet.
	Number uint64 `json:"number"`
	Hash   string `json:"hash,omitempty"`

	// Oldest is the number of the oldest segment that is kept.
	Oldest uint64 `json:"oldest,omitempty"`

	// Events is how many events are in the chain and open, and Waiting how many are not chained yet.
	Events  int `json:"events"`
	Waiting int `json:"waiting"`

	// First and Last are the times of the oldest and the newest event.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`

	// Faults is what is wrong; empty when the trail is whole.
	Faults []AuditFault `json:"faults,omitempty"`
}

// AuditFault is something wrong in the audit trail.
type AuditFault struct {
	// Segment is the number of the segment that it was found at, zero for the head and for events that wait.
	Segment uint64 `json:"segment,omitempty"`

	// Event is the id of the row of an event that waits.
	Event string `json:"event,omitempty"`

	// After and Before are the times of the events around it, as far as they are known.
	After  time.Time `json:"after,omitzero"`
	Before time.Time `json:"before,omitzero"`

	// Problem says in words what is wrong.
	Problem string `json:"problem"`
}

// Whole reports whether nothing is wrong.
func (r *AuditReport) Whole() bool { return len(r.Faults) == 0 }

// maxFaults bounds a report. What is wrong beyond is not listed.
const maxFaults = 100

// VerifyAudit reads the whole audit trail and says what is wrong with it: segments that were edited, removed, reordered or put in the place of
// others, a removed end, a changed head, events that do not open or are there twice. A missing beginning is in order when it was past its
// time, to within an hour: the clocks of nodes disagree. With an anchor, the number and hash of a segment as "number:hash", it also checks that the chain contains it.
//
// Who can write to the storage, and has no key, can still do three things that nothing in the storage shows. They can put a whole older copy back, or the head
// of one while they remove the segments behind it: an anchor shows that, and a process that runs meanwhile notes it. They can remove events that are
// not chained yet: those of the last seconds, see AuditOptions.Every. And they can remove the whole trail, head and all. Who has the key as well
// can write another trail; only an anchor shows that.
//
// The error is that of the store, or ErrAnchor; what is wrong with the trail is no error.
func (v *Vault) VerifyAudit(ctx context.Context, anchor string) (*AuditReport, error) {
	a := audit{vault: v, report: new(AuditReport), seed: maphash.MakeSeed(), ids: make(map[uint64]struct{})}
	if err := a.parseAnchor(anchor); err != nil {
		return nil, err
	}
	head, err := v.head(ctx)
	if errors.Is(err, ErrTampered) {
		a.fault(AuditFault{Problem: err.Error()})
	} else if err != nil {
		return nil, err
	}
	if err := a.chain(ctx, head); err != nil {
		return nil, err
	}
	if err := a.waiting(ctx); err != nil {
		return nil, err
	}
	a.checkAnchor()
	return a.report, nil
}

// audit is a verification under way.
type audit struct {
	vault  *Vault
	report *AuditReport

	anchored bool
	anchor   AuditSeal
	reached  string // the hash of the anchor's segment, as the chain has it

	// expected is what the next segment has to say of the one before, nil where that one is missing or does not open.
	expected *auditHead

	seed maphash.Seed
	ids  map[uint64]struct{} // hashes of the ids of all events so far
}

func (a *audit) fault(f AuditFault) {
	if len(a.report.Faults) < maxFaults {
		a.report.Faults = append(a.report.Faults, f)
	}
}

func (a *audit) parseAnchor(s string) error {
	if s == "" {
		return nil
	}
	number, hash, found := strings.Cut(strings.TrimSpace(s), ":")
	n, err := strconv.ParseUint(number, 10, 48)
	if !found || err != nil || n == 0 || len(hash) != 64 {
		return ErrAnchor
	}
	a.anchored, a.anchor = true, AuditSeal{Number: n, Hash: strings.ToLower(hash)}
	return nil
}

// chain checks the segments that a head tells of. Without one, those that are there.
func (a *audit) chain(ctx context.Context, head *auditHead) error {
	oldest, err := a.vault.oldestSegment(ctx)
	if errors.Is(err, ErrTampered) {
		a.fault(AuditFault{Problem: err.Error()})
		return nil
	} else if err != nil {
		return err
	}
	if head != nil && head.Number > 0 {
		a.report.Number, a.report.Hash = head.Number, head.Hash
	}
	a.report.Oldest = oldest
	if oldest == 0 {
		if head != nil && head.Number > 0 && a.early(head.Keep) {
			a.fault(AuditFault{Segment: head.Number, Problem: fmt.Sprintf("all %d segments are missing; the last one was to be kept until %s", head.Number, date(head.Keep))})
		}
		return nil
	}
	last := oldest
	for n := oldest; head == nil || n <= head.Number; n++ {
		found, err := a.segment(ctx, n, n == oldest)
		if err != nil {
			return err
		}
		if head == nil && !found {
			break
		}
		last = n
	}
	if head == nil {
		return nil
	}
	a.checkEnd(head)
	return a.beyond(ctx, last)
}

// early reports whether what was to be kept until then is missing too early. Another node has deleted it, by a clock that may be ahead of this one's.
func (a *audit) early(keep time.Time) bool { return a.vault.now().Before(keep.Add(-lateness)) }

// checkEnd compares the head with the last segment.
func (a *audit) checkEnd(head *auditHead) {
	if e := a.expected; e != nil && e.Number == head.Number && (e.Hash != head.Hash || !e.Keep.Equal(head.Keep) || e.Newest != head.Newest) {
		a.fault(AuditFault{Segment: head.Number, After: a.report.Last, Problem: "the head tells of another last segment than is there"})
	}
}

// beyond looks for segments that the head does not know.
func (a *audit) beyond(ctx context.Context, last uint64) error {
	rows, err := a.vault.store.List(ctx, KindAuditSegment, Query{After: segmentID(last), Limit: 1})
	if err != nil || len(rows) == 0 {
		return err
	}
	head, err := a.vault.head(ctx) // which may have gone on
	if err != nil {
		return err
	}
	if rows[0].ID > segmentID(head.Number) {
		a.fault(AuditFault{Segment: head.Number, Problem: "there is a segment " + clip(rows[0].ID) + " behind the last one: the head was put back"})
	}
	return nil
}

// segment checks one segment, and that it follows the one before. It reports whether it is there.
func (a *audit) segment(ctx context.Context, number uint64, first bool) (bool, error) {
	before := a.expected
	a.expected = nil
	seg, lines, err := a.vault.segment(ctx, number)
	switch {
	case errors.Is(err, ErrNotFound):
		oldest, err := a.vault.oldestSegment(ctx) // the clean-up may work meanwhile
		if err == nil && (oldest == 0 || oldest > number) {
			a.report.Oldest = oldest
			return false, nil
		}
		a.fault(AuditFault{Segment: number, After: a.report.Last, Problem: "the segment is missing"})
		return false, err
	case errors.Is(err, ErrTampered):
		a.fault(AuditFault{Segment: number, After: a.report.Last, Problem: err.Error()})
		return true, nil
	case err != nil:
		return false, err
	}
	here := AuditFault{Segment: number, After: a.report.Last, Before: seg.First}
	switch {
	case before != nil && (seg.Previous != before.Hash || !seg.PreviousKeep.Equal(before.Keep) || seg.PreviousNewest != before.Newest):
		here.Problem = "the segment does not follow the one before it"
		a.fault(here)
	case first && number > 1 && a.early(seg.PreviousKeep):
		here.Problem = fmt.Sprintf("the segments before this one are missing; the last of them was to be kept until %s", date(seg.PreviousKeep))
		a.fault(here)
	case number == 1 && seg.Previous != "":
		here.Problem = "the first segment tells of one before it"
		a.fault(here)
	}
	if number == a.anchor.Number+1 && a.reached == "" {
		a.reached = seg.Previous
	}
	hash := segmentHash(number, seg.Previous, lines)
	if number == a.anchor.Number {
		a.reached = hash
	}
	newest := a.events(number, lines)
	a.expected = &auditHead{Number: number, Hash: hash, Keep: seg.DeleteAfter, Newest: max(seg.PreviousNewest, newest)}
	return true, nil
}

// events reads a segment's events, and returns the greatest id.
func (a *audit) events(number uint64, lines [][]byte) (newest string) {
	for _, line := range lines {
		e := new(Event)
		canonical := json.Unmarshal(line, e) == nil && eventTime(e.ID).Equal(e.Time)
		if !canonical || e.ID <= newest {
			a.fault(AuditFault{Segment: number, After: a.report.Last, Problem: "the segment holds a line that is no event, or is out of order"})
			continue
		}
		newest = e.ID
		a.report.Events++
		a.seen(e, AuditFault{Segment: number})
	}
	return newest
}

// seen notes an event, and that it is there twice when it is.
func (a *audit) seen(e *Event, where AuditFault) {
	sum := maphash.String(a.seed, e.ID)
	if _, twice := a.ids[sum]; twice {
		where.After, where.Before, where.Problem = e.Time, e.Time, "the event "+e.ID+" is there twice"
		a.fault(where)
	}
	a.ids[sum] = struct{}{}
	if a.report.First.IsZero() || e.Time.Before(a.report.First) {
		a.report.First = e.Time
	}
	if e.Time.After(a.report.Last) {
		a.report.Last = e.Time
	}
}

// waiting checks the events that are not chained. Those that are chained meanwhile are counted in neither place, and none in both.
func (a *audit) waiting(ctx context.Context) error {
	for after := ""; ; {
		rows, err := a.vault.store.List(ctx, KindEvent, Query{After: after, Limit: maxSegmentEvents})
		if err != nil {
			return err
		}
		for _, row := range rows {
			after = row.ID
			e := new(Event)
			row.Kind = KindEvent
			if err := a.vault.openRecord(row, e); err != nil {
				a.fault(AuditFault{Event: clip(row.ID), After: eventTime(row.ID), Before: eventTime(row.ID), Problem: err.Error()})
				continue
			}
			a.report.Waiting++
			a.seen(e, AuditFault{Event: e.ID})
		}
		if len(rows) < maxSegmentEvents {
			return nil
		}
	}
}

// checkAnchor says whether the chain contains the anchor.
func (a *audit) checkAnchor() {
	if !a.anchored {
		return
	}
	f := AuditFault{Segment: a.anchor.Number}
	if a.reached == "" && a.report.Oldest == 0 && a.anchor.Number == a.report.Number { // only the head is left
		a.reached = a.report.Hash
	}
	switch {
	case a.anchor.Number > a.report.Number:
		f.Problem = fmt.Sprintf("the chain ends at segment %d, before the anchor: its end was removed, or an older copy was put back", a.report.Number)
	case a.reached == "" && (a.anchor.Number < a.report.Oldest || a.report.Oldest == 0):
		f.Problem = "the anchor's segment is past its time and gone: give a newer anchor"
	case a.reached == "":
		f.Problem = "the anchor's segment cannot be read"
	case a.reached != a.anchor.Hash:
		f.Problem = "the segment has another hash than the anchor: the trail is not the one that the anchor was taken from"
	default:
		return
	}
	a.fault(f)
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }
