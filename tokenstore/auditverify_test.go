package tokenstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

func verify(t testing.TB, v *tokenstore.Vault, anchor string) *tokenstore.AuditReport {
	t.Helper()
	report, err := v.VerifyAudit(t.Context(), anchor)
	if err != nil {
		t.Fatalf("VerifyAudit: %v", err)
	}
	return report
}

func anchorOf(r *tokenstore.AuditReport) string { return fmt.Sprintf("%d:%s", r.Number, r.Hash) }

// attacked is a trail of five segments with three events each, and two that wait, under a clock that the test sets.
type attacked struct {
	*testing.T
	store tokenstore.Store
	key   tokenstore.RootKey
	vault *tokenstore.Vault
	at    time.Time
}

const testRetention = 24 * time.Hour

func newAttacked(t *testing.T) *attacked {
	t.Helper()
	a := &attacked{T: t, store: newStore(t), key: tokenstore.NewRootKey(), at: now}
	a.vault = a.open()
	for range 5 {
		a.at = a.at.Add(time.Minute)
		record(t, a.vault, 3)
		flush(t, a.vault)
	}
	a.at = a.at.Add(time.Minute)
	record(t, a.vault, 2)
	return a
}

// open is the vault as another process has it.
func (a *attacked) open() *tokenstore.Vault {
	return openAudited(a.T, a.store, a.key, tokenstore.Options{Now: func() time.Time { return a.at }, Audit: tokenstore.AuditOptions{Retention: testRetention}})
}

func (a *attacked) row(kind tokenstore.Kind, id string) tokenstore.Row {
	a.Helper()
	row, err := a.store.Get(a.Context(), kind, id)
	if err != nil {
		a.Fatal(err)
	}
	return row
}

func (a *attacked) remove(kind tokenstore.Kind, id string) {
	a.Helper()
	a.apply(tokenstore.Change{Op: tokenstore.OpDelete, Row: a.row(kind, id)})
}

func (a *attacked) apply(changes ...tokenstore.Change) {
	a.Helper()
	if err := a.store.Apply(a.Context(), changes...); err != nil {
		a.Fatal(err)
	}
}

// put writes a row as it is, version and all, where the store lets its versions be reached.
func (a *attacked) put(row tokenstore.Row) {
	a.Helper()
	if old, err := a.store.Get(a.Context(), row.Kind, row.ID); err == nil {
		a.apply(tokenstore.Change{Op: tokenstore.OpDelete, Row: old})
	}
	insert := row
	insert.Version = 1
	a.apply(tokenstore.Change{Op: tokenstore.OpInsert, Row: insert})
	for version := uint64(2); version <= row.Version; version++ {
		next := row
		next.Version = version
		a.apply(tokenstore.Change{Op: tokenstore.OpUpdate, Row: next})
	}
}

func segmentRow(n int) string { return fmt.Sprintf("%012d", n) }

func (a *attacked) waiting() []tokenstore.Row {
	a.Helper()
	rows, err := a.store.List(a.Context(), tokenstore.KindEvent, tokenstore.Query{})
	if err != nil {
		a.Fatal(err)
	}
	for i := range rows {
		rows[i].Kind = tokenstore.KindEvent
	}
	return rows
}

func TestT73EveryChangeToTheAuditTrailIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		attack  func(a *attacked)
		segment uint64
		problem string
	}{
		"edited segment": {func(a *attacked) {
			row := a.row(tokenstore.KindAuditSegment, segmentRow(3))
			row.Sealed[len(row.Sealed)/2] ^= 1
			a.put(row)
		}, 3, "does not open"},
		"removed segment": {func(a *attacked) { a.remove(tokenstore.KindAuditSegment, segmentRow(3)) }, 3, "is missing"},
		"removed beginning": {func(a *attacked) {
			a.remove(tokenstore.KindAuditSegment, segmentRow(1))
			a.remove(tokenstore.KindAuditSegment, segmentRow(2))
		}, 3, "before this one are missing; the last of them was to be kept until 2026-11-22T12:02:00Z"},
		"removed end": {func(a *attacked) { a.remove(tokenstore.KindAuditSegment, segmentRow(5)) }, 5, "is missing"},
		"removed all": {func(a *attacked) {
			for n := range 5 {
				a.remove(tokenstore.KindAuditSegment, segmentRow(n+1))
			}
		}, 5, "all 5 segments are missing"},
		"reordered segments": {func(a *attacked) {
			two, four := a.row(tokenstore.KindAuditSegment, segmentRow(2)), a.row(tokenstore.KindAuditSegment, segmentRow(4))
			two.ID, four.ID = four.ID, two.ID
			a.put(two)
			a.put(four)
		}, 2, "does not open"},
		"segment in place of another": {func(a *attacked) {
			row := a.row(tokenstore.KindAuditSegment, segmentRow(4))
			row.ID = segmentRow(6)
			a.put(row)
		}, 5, "behind the last one"},
		"segment kept for longer": {func(a *attacked) {
			row := a.row(tokenstore.KindAuditSegment, segmentRow(3))
			row.DeleteAfter = row.DeleteAfter.Add(-time.Hour)
			a.put(row)
		}, 3, "a clear column was changed"},
		"changed head": {func(a *attacked) {
			row := a.row(tokenstore.KindAuditHead, "head")
			row.Sealed[len(row.Sealed)-1] ^= 1
			a.put(row)
		}, 0, "does not open"},
		"removed head": {func(a *attacked) { a.remove(tokenstore.KindAuditHead, "head") }, 0, "head is missing"},
		"event that does not open": {func(a *attacked) {
			row := a.waiting()[0]
			row.Sealed[len(row.Sealed)-1] ^= 1
			a.put(row)
		}, 0, "does not open"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAttacked(t)
			if report := verify(t, a.vault, ""); !report.Whole() || report.Number != 5 || report.Events != 15 || report.Waiting != 2 ||
				!report.First.Equal(now.Add(time.Minute)) || !report.Last.Equal(now.Add(6*time.Minute)) {
				t.Fatalf("report before the attack = %+v", report)
			}
			tt.attack(a)
			for who, v := range map[string]*tokenstore.Vault{"this process": a.vault, "another": a.open()} {
				report := verify(t, v, "")
				if report.Whole() || report.Faults[0].Segment != tt.segment || !strings.Contains(report.Faults[0].Problem, tt.problem) {
					t.Errorf("%s: faults = %+v; want one at segment %d that says %q", who, report.Faults, tt.segment, tt.problem)
				}
			}
		})
	}
}

// Somebody ran a copy of the vault for a while, and puts a segment of that one's trail in the place of one of this.
func TestSegmentOfACopyDoesNotFitTheChain(t *testing.T) {
	t.Parallel()
	path, key := filepath.Join(t.TempDir(), "vault.db"), tokenstore.NewRootKey()
	grow := func(s tokenstore.Store, segments int) *tokenstore.Vault {
		v := openAudited(t, s, key, tokenstore.Options{})
		for range segments {
			record(t, v, 2)
			flush(t, v)
		}
		return v
	}
	s, err := bbolt.Open(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	grow(s, 2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path+".copy", file, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	a := &attacked{T: t, store: openFile(t, path), key: key}
	a.vault = grow(a.store, 3)
	b := openFile(t, path+".copy")
	grow(b, 3)
	for n := range 5 {
		theirs, err := b.Get(t.Context(), tokenstore.KindAuditSegment, segmentRow(n+1))
		if err != nil {
			t.Fatal(err)
		}
		theirs.Kind = tokenstore.KindAuditSegment
		ours := a.row(tokenstore.KindAuditSegment, segmentRow(n+1))
		a.put(theirs)
		report := verify(t, a.vault, "")
		if same := n < 2; same != report.Whole() {
			t.Errorf("segment %d of the copy: %+v", n+1, report.Faults)
		}
		if n == 2 && (report.Faults[0].Segment != 4 || report.Faults[0].Problem != "the segment does not follow the one before it") {
			t.Errorf("segment 3 of the copy: %+v", report.Faults)
		}
		if n == 4 && !slices.ContainsFunc(report.Faults, func(f tokenstore.AuditFault) bool {
			return f.Problem == "the head tells of another last segment than is there"
		}) {
			t.Errorf("last segment of the copy: %+v", report.Faults)
		}
		a.put(ours)
	}
}

func TestSegmentThatWasRewrittenWithTheKeyBreaksTheChain(t *testing.T) {
	t.Parallel()
	for segment, want := range map[uint64]tokenstore.AuditFault{
		3: {Segment: 4, Problem: "the segment does not follow the one before it"},
		5: {Segment: 5, Problem: "the head tells of another last segment than is there"},
	} {
		a := newAttacked(t)
		if err := tokenstore.RewriteSegment(t.Context(), a.vault, segment, func(line []byte) []byte {
			return bytes.Replace(line, []byte(`"outcome":"ok"`), []byte(`"outcome":"refused"`), 1)
		}); err != nil {
			t.Fatal(err)
		}
		report := verify(t, a.vault, "")
		if len(report.Faults) != 1 || report.Faults[0].Segment != want.Segment || report.Faults[0].Problem != want.Problem || report.Events != 15 {
			t.Errorf("segment %d rewritten: %+v; want %+v", segment, report, want)
		}
	}
}

func TestEventThatIsPutBackIsFound(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	old := a.waiting()[0]
	flush(t, a.vault)
	a.put(old)
	if report := verify(t, a.vault, ""); report.Whole() || report.Faults[0].Event != old.ID || !strings.Contains(report.Faults[0].Problem, "twice") {
		t.Errorf("report on the waiting copy = %+v", report)
	}
	flush(t, a.vault)
	if report := verify(t, a.vault, ""); report.Whole() || report.Faults[0].Segment != 7 || !strings.Contains(report.Faults[0].Problem, "twice") {
		t.Errorf("report on the chained copy = %+v", report)
	}
}

func TestTrailLosesItsBeginningWhenThatIsPastItsTime(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	flush(t, a.vault)
	old := verify(t, a.vault, "")
	a.at = now.Add(23 * time.Hour) // nothing is past its time yet
	if n, err := a.vault.Sweep(t.Context(), a.at, 100); n != 0 || err != nil || verify(t, a.vault, "").Oldest != 1 {
		t.Errorf("Sweep = %d, %v; want all segments kept", n, err)
	}
	a.at = now.Add(testRetention + 3*time.Minute + time.Second)
	if n, err := a.vault.Sweep(t.Context(), a.at, 100); n != 3 || err != nil {
		t.Fatalf("Sweep = %d, %v; want 3 segments", n, err)
	}
	report := verify(t, a.vault, anchorOf(old))
	if !report.Whole() || report.Oldest != 4 || report.Events != 8 {
		t.Errorf("report = %+v; want a whole trail from segment 4 on", report)
	}
	wantEvents(t, "what is left", events(t, a.vault, tokenstore.EventFilter{}), eventIDs(events(t, a.vault, tokenstore.EventFilter{From: now.Add(4 * time.Minute)})))
	a.remove(tokenstore.KindAuditSegment, segmentRow(4))
	a.at = now.Add(testRetention - time.Hour) // no clock is so much behind
	if report := verify(t, a.vault, ""); report.Whole() || report.Faults[0].Segment != 5 {
		t.Errorf("report on a beginning that was removed too early = %+v", report)
	}
	a.at = now.Add(2 * testRetention)
	if n, err := a.vault.Sweep(t.Context(), a.at, 100); n != 2 || err != nil {
		t.Fatalf("Sweep = %d, %v", n, err)
	}
	if report := verify(t, a.vault, anchorOf(old)); !report.Whole() || report.Number != 6 || report.Oldest != 0 {
		t.Errorf("report on an empty trail = %+v", report)
	}
	if report := verify(t, a.vault, "2:"+old.Hash); report.Whole() || !strings.Contains(report.Faults[0].Problem, "past its time and gone") {
		t.Errorf("report on an empty trail with an anchor that is gone = %+v", report)
	}
	record(t, a.vault, 1)
	flush(t, a.vault)
	if report := verify(t, a.vault, anchorOf(old)); !report.Whole() || report.Number != 7 || report.Events != 1 {
		t.Errorf("report on a trail that goes on after all was swept = %+v", report)
	}
}

func TestShorterRetentionLeavesNoHoleInTheTrail(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	shorter := openAudited(t, a.store, a.key, tokenstore.Options{Now: func() time.Time { return a.at }, Audit: tokenstore.AuditOptions{Retention: time.Hour}})
	flush(t, shorter)
	a.at = now.Add(12 * time.Hour)
	if n, err := shorter.Sweep(t.Context(), a.at, 100); n != 0 || err != nil {
		t.Errorf("Sweep = %d, %v; want nothing from behind what is kept longer", n, err)
	}
	a.at = now.Add(testRetention + time.Hour)
	if n, err := shorter.Sweep(t.Context(), a.at, 100); n != 6 || err != nil {
		t.Errorf("Sweep = %d, %v; want all", n, err)
	}
}

func TestAnchorShowsThatAnOlderCopyWasPutBack(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	oldHead, oldAnchor := a.row(tokenstore.KindAuditHead, "head"), anchorOf(verify(t, a.vault, ""))
	flush(t, a.vault)
	newAnchor := anchorOf(verify(t, a.vault, ""))
	for _, anchor := range []string{"", oldAnchor, newAnchor, strings.ToUpper(newAnchor), " " + newAnchor + "\n"} {
		if report := verify(t, a.vault, anchor); !report.Whole() {
			t.Errorf("report with anchor %q = %+v; want none", anchor, report.Faults)
		}
	}
	wrong := "4:" + strings.Repeat("0", 64)
	if report := verify(t, a.vault, wrong); report.Whole() || report.Faults[0].Segment != 4 || !strings.Contains(report.Faults[0].Problem, "another hash") {
		t.Errorf("report with a wrong anchor = %+v", report)
	}
	a.remove(tokenstore.KindAuditSegment, segmentRow(6))
	a.put(oldHead)
	if report := verify(t, a.open(), ""); !report.Whole() {
		t.Errorf("report on an older copy without an anchor = %+v; its doc says that it cannot know", report)
	}
	if report := verify(t, a.open(), newAnchor); report.Whole() || !strings.Contains(report.Faults[0].Problem, "ends at segment 5, before the anchor") {
		t.Errorf("report on an older copy = %+v", report)
	}
	record(t, a.vault, 1) // the process that ran meanwhile knows
	flush(t, a.vault)
	flush(t, a.vault)
	tampered := events(t, a.vault, tokenstore.EventFilter{Types: []string{tokenstore.EventVaultTampered}})
	if len(tampered) != 1 || !strings.Contains(tampered[0].Reason, "it had 6 segments, and has 5") {
		t.Errorf("events about the lost end = %+v", tampered)
	}
}

func TestWhatIsNoAnchorIsRefused(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	if report := verify(t, v, ""); !report.Whole() || report.Number != 0 || report.Hash != "" {
		t.Errorf("report on an empty trail = %+v", report)
	}
	for _, anchor := range []string{"1", "1:", ":", "0:" + strings.Repeat("a", 64), "x:" + strings.Repeat("a", 64), "1:" + strings.Repeat("a", 63), "-1:" + strings.Repeat("a", 64)} {
		if _, err := v.VerifyAudit(t.Context(), anchor); !errors.Is(err, tokenstore.ErrAnchor) {
			t.Errorf("VerifyAudit(%q) = %v; want ErrAnchor", anchor, err)
		}
	}
	if report := verify(t, v, "1:"+strings.Repeat("a", 64)); report.Whole() {
		t.Error("a trail that lost everything holds against an anchor")
	}
}
