package tokenstore

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"
)

// Events are recorded as rows of their own, and soon moved into the chain: segments of up to a thousand events, each
// with the hash of the one before. One row, the head, names the last segment and its hash. A segment, the new head and the end of the rows that it
// was made of are one Apply, so that a crash neither loses an event nor doubles one; and the segment's number is its id, so that of
// several nodes that make the same one all but one lose, and read again.
const (
	maxSegmentEvents = 1000
	maxSegmentBytes  = 2 << 20 // of event lines before compression; what is stored is never larger than a row may be
	auditHeadRow     = "head"
	hashContext      = "gw.audit.segment"
)

// auditSegment is a piece of the chain.
type auditSegment struct {
	Meta

	Number uint64 `json:"number"`

	// Previous is the hash of the segment before, empty for the first. PreviousKeep is that one's DeleteAfter: when it is missing, it may be so only since
	// then. PreviousNewest is the greatest id of an event in any segment before.
	Previous       string    `json:"previous,omitempty"`
	PreviousKeep   time.Time `json:"previous_keep,omitzero"`
	PreviousNewest string    `json:"previous_newest,omitempty"`

	Events int       `json:"events"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`

	// Lines are the events as JSON, one in a line, ordered by id, compressed.
	Lines []byte `json:"lines"`
}

func segmentID(number uint64) string { return fmt.Sprintf("%012d", number) }

func (s *auditSegment) layout() layout { return layout{kind: KindAuditSegment, use: useGrant} }

// auditHead is the end of the chain.
type auditHead struct {
	Meta

	Number uint64    `json:"number"`
	Hash   string    `json:"hash"`
	Keep   time.Time `json:"keep"`   // DeleteAfter of the last segment
	Newest string    `json:"newest"` // the greatest id of a chained event

	// Late is the last segment with an event more than lateness older than one that was chained before it: clocks differ, or were put back.
	Late uint64 `json:"late,omitempty"`

	// Restored is when the vault last caught up after it was set back, see Anchor.
	Restored time.Time `json:"restored,omitzero"`
}

func (*auditHead) layout() layout { return layout{kind: KindAuditHead, use: useGrant} }

// lateness is how much older events may be than those that were chained before them without anybody taking notice, and how far the clocks of nodes may disagree
// in general.
const lateness = time.Hour

// AuditSeal names a segment of the audit trail by what cannot be changed without showing.
type AuditSeal struct {
	Number uint64    `json:"number"`
	Hash   string    `json:"hash"` // SHA-256 in hex, over the number, the hash before and every event
	Events int       `json:"events"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// segmentHash is the hash that the next segment holds, and the head.
func segmentHash(number uint64, previous string, lines [][]byte) string {
	h := sha256.New()
	b := appendSized(nil, hashContext)
	b = binary.BigEndian.AppendUint64(b, number)
	h.Write(appendSized(b, previous))
	for _, line := range lines {
		h.Write(binary.BigEndian.AppendUint64(b[:0], uint64(len(line))))
		h.Write(line)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// head returns the chain's end, an empty one where nothing was chained yet.
func (v *Vault) head(ctx context.Context) (*auditHead, error) {
	head, err := load(ctx, v, new(auditHead), auditHeadRow)
	if !errors.Is(err, ErrNotFound) {
		return head, err
	}
	rows, err := v.store.List(ctx, KindAuditSegment, Query{Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(rows) > 0 {
		// Another node may have begun the chain in the meantime.
		if head, err = load(ctx, v, new(auditHead), auditHeadRow); errors.Is(err, ErrNotFound) {
			return nil, fmt.Errorf("audit trail: %w: its head is missing, and segments of it are there", ErrTampered)
		}
		return head, err
	}
	return &auditHead{Meta: Meta{ID: auditHeadRow}}, nil
}

// chain moves all waiting events into the chain.
func (v *Vault) chain(ctx context.Context) error {
	const attempts = 10
	t := v.trail
	t.chaining.Lock()
	defer t.chaining.Unlock()
	t.waiting.Store(0)
	for conflicts := 0; ; {
		more, err := v.chainSegment(ctx)
		switch {
		case errors.Is(err, ErrConflict) && conflicts < attempts: // another node chains as well
			conflicts++
			if !pause(ctx, time.Duration(rand.Int64N(int64(20*time.Millisecond)))) { //nolint:gosec // only spreads them out
				return ctx.Err()
			}
		case err != nil:
			return fmt.Errorf("audit trail: %w", err)
		case !more:
			return nil
		default:
			conflicts = 0
		}
	}
}

// chainSegment adds a segment of the events that wait, the oldest first. It reports whether there are more.
func (v *Vault) chainSegment(ctx context.Context) (more bool, err error) {
	events, lines, more, err := v.oldestWaiting(ctx)
	if err != nil || len(events) == 0 {
		return false, err
	}
	head, err := v.head(ctx)
	if err != nil {
		return false, err
	}
	v.watchHead(ctx, head)
	seg, next, err := v.nextSegment(head, events, lines)
	if err != nil {
		return false, err
	}
	writes := make([]Write, 0, len(events)+2)
	writes = append(writes, Save(seg), Save(next))
	for _, e := range events {
		writes = append(writes, Delete(e))
	}
	if err := v.Commit(ctx, writes...); err != nil {
		return false, err
	}
	v.trail.seen = next.Number
	if v.trail.Chained != nil {
		v.trail.Chained(AuditSeal{Number: next.Number, Hash: next.Hash, Events: seg.Events, First: seg.First, Last: seg.Last})
	}
	return more, nil
}

// watchHead notes when the chain's end has gone back since this vault last saw it.
func (v *Vault) watchHead(ctx context.Context, head *auditHead) {
	t := v.trail
	if head.Number < t.seen {
		e := v.NewEvent(ctx, EventVaultTampered).Refused(fmt.Sprintf("the audit trail has lost its end: it had %d segments, and has %d", t.seen, head.Number))
		e.Details = map[string]string{"kind": string(KindAuditHead), "id": auditHeadRow}
		v.Note(e)
	}
	t.seen = head.Number
}

// oldestWaiting opens the oldest events that wait, as many as a segment takes. Those that do not open stay where they are, for VerifyAudit to name.
func (v *Vault) oldestWaiting(ctx context.Context) (events []*Event, lines [][]byte, more bool, err error) {
	size := 0
	for after := ""; ; {
		rows, err := v.store.List(ctx, KindEvent, Query{After: after, Limit: maxSegmentEvents})
		if err != nil {
			return nil, nil, false, err
		}
		for _, row := range rows {
			after = row.ID
			e := new(Event)
			row.Kind = KindEvent
			if err := v.openRecord(row, e); err != nil {
				continue
			}
			line, err := e.MarshalJSON() // json.Marshal would go over it once more
			if err != nil {
				return nil, nil, false, err
			}
			if size += len(line); len(events) == maxSegmentEvents || size > maxSegmentBytes {
				return events, lines, true, nil
			}
			events, lines = append(events, e), append(lines, line)
		}
		if len(rows) < maxSegmentEvents {
			return events, lines, false, nil
		}
	}
}

// nextSegment makes the segment behind a head, and the head that is then.
func (v *Vault) nextSegment(head *auditHead, events []*Event, lines [][]byte) (*auditSegment, *auditHead, error) {
	packed, err := pack(lines)
	if err != nil {
		return nil, nil, err
	}
	oldest, newest := events[0], events[len(events)-1]
	seg := &auditSegment{
		Number: head.Number + 1, Previous: head.Hash, PreviousKeep: head.Keep, PreviousNewest: head.Newest,
		Events: len(events), First: oldest.Time, Last: newest.Time, Lines: packed,
	}
	seg.Meta = Meta{ID: segmentID(seg.Number), DeleteAfter: newest.Time.Add(v.trail.Retention)}
	if seg.DeleteAfter.Before(head.Keep) { // the oldest always go first
		seg.DeleteAfter = head.Keep
	}
	next := *head
	next.Number, next.Hash, next.Keep = seg.Number, segmentHash(seg.Number, seg.Previous, lines), seg.DeleteAfter
	if eventTime(head.Newest).Sub(oldest.Time) > lateness {
		next.Late = seg.Number
	}
	next.Newest = max(head.Newest, newest.ID)
	return seg, &next, nil
}

func pack(lines [][]byte) ([]byte, error) {
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.DefaultCompression)
	if err != nil {
		return nil, err
	}
	for _, line := range lines {
		if _, err := w.Write(append(slices.Clip(line), '\n')); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

func unpack(packed []byte) ([][]byte, error) {
	r := flate.NewReader(bytes.NewReader(packed))
	text, err := io.ReadAll(io.LimitReader(r, maxSegmentBytes+maxSegmentEvents+1))
	if err != nil || len(text) == 0 || len(text) > maxSegmentBytes+maxSegmentEvents || text[len(text)-1] != '\n' {
		return nil, ErrTampered
	}
	return bytes.Split(text[:len(text)-1], []byte{'\n'}), nil
}

// segment reads a segment and its events' lines.
func (v *Vault) segment(ctx context.Context, number uint64) (*auditSegment, [][]byte, error) {
	seg, err := load(ctx, v, new(auditSegment), segmentID(number))
	if err != nil {
		return nil, nil, err
	}
	lines, err := unpack(seg.Lines)
	if err != nil || seg.Number != number || seg.Events != len(lines) {
		return nil, nil, fmt.Errorf("%s %s: %w: not a segment", KindAuditSegment, segmentID(number), ErrTampered)
	}
	return seg, lines, nil
}

// oldestSegment is the number of the oldest segment that is kept, zero when there is none.
func (v *Vault) oldestSegment(ctx context.Context) (uint64, error) {
	rows, err := v.store.List(ctx, KindAuditSegment, Query{Limit: 1})
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	var number uint64
	if _, err := fmt.Sscanf(rows[0].ID, "%d", &number); err != nil || segmentID(number) != rows[0].ID {
		return 0, fmt.Errorf("%s %s: %w: not a number of a segment", KindAuditSegment, clip(rows[0].ID), ErrTampered)
	}
	return number, nil
}
