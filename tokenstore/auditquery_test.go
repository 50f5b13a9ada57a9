package tokenstore_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// kept records so many events by a clock that goes on by a second each, and chains after every third of some hundred.
func kept(t *testing.T, n int) (*tokenstore.Vault, *time.Time, []*tokenstore.Event) {
	t.Helper()
	at := now
	v := openAudited(t, newStore(t), tokenstore.NewRootKey(), tokenstore.Options{Now: func() time.Time { return at }})
	var all []*tokenstore.Event
	for i := range n {
		at = at.Add(time.Second)
		e := v.NewEvent(t.Context(), tokenstore.EventTypes()[i%5])
		e.UserID, e.User, e.ClientID, e.Proxy = fmt.Sprint("user-", i%7), fmt.Sprintf("Ann %d <ann@example.com>", i%7), fmt.Sprint("client-", i%3), "github"
		e.JTI = fmt.Sprint("jti-", i)
		commit(t, v, tokenstore.RecordEvent(e))
		all = append(all, e)
		if i%17 == 0 && i < n-20 {
			flush(t, v)
		}
	}
	return v, &at, all
}

func TestEventsAreFoundByEachFilterInEveryPageSize(t *testing.T) {
	t.Parallel()
	v, _, all := kept(t, 200)
	fits := func(f func(e *tokenstore.Event) bool) (ids []string) {
		for _, e := range all {
			if f(e) {
				ids = append(ids, e.ID)
			}
		}
		return ids
	}
	from, until := now.Add(30*time.Second), now.Add(150*time.Second)
	for name, tt := range map[string]struct {
		filter tokenstore.EventFilter
		want   func(e *tokenstore.Event) bool
	}{
		"all":   {tokenstore.EventFilter{}, func(*tokenstore.Event) bool { return true }},
		"type":  {tokenstore.EventFilter{Types: []string{all[2].Type}}, func(e *tokenstore.Event) bool { return e.Type == all[2].Type }},
		"types": {tokenstore.EventFilter{Types: []string{all[2].Type, all[3].Type}}, func(e *tokenstore.Event) bool { return e.Type == all[2].Type || e.Type == all[3].Type }},
		"user and client": {tokenstore.EventFilter{UserID: "user-4", ClientID: "client-2"}, func(e *tokenstore.Event) bool {
			return e.UserID == "user-4" && e.ClientID == "client-2"
		}},
		"jti":      {tokenstore.EventFilter{JTI: "jti-5"}, func(e *tokenstore.Event) bool { return e.JTI == "jti-5" }},
		"text":     {tokenstore.EventFilter{Text: "aNN 3 <"}, func(e *tokenstore.Event) bool { return e.UserID == "user-3" }},
		"proxy":    {tokenstore.EventFilter{Proxy: "gitlab"}, func(*tokenstore.Event) bool { return false }},
		"provider": {tokenstore.EventFilter{Provider: "okta"}, func(*tokenstore.Event) bool { return false }},
		"from":     {tokenstore.EventFilter{From: from}, func(e *tokenstore.Event) bool { return !e.Time.Before(from) }},
		"until":    {tokenstore.EventFilter{Until: until}, func(e *tokenstore.Event) bool { return e.Time.Before(until) }},
		"both": {tokenstore.EventFilter{From: from, Until: until, UserID: "user-1"}, func(e *tokenstore.Event) bool {
			return !e.Time.Before(from) && e.Time.Before(until) && e.UserID == "user-1"
		}},
	} {
		for _, limit := range []int{1, 3, 7, 100, 1000} {
			tt.filter.Limit = limit
			wantEvents(t, fmt.Sprintf("%s by %d", name, limit), events(t, v, tt.filter), fits(tt.want))
		}
	}
}

func TestPagesGoOnWhereTheyWereWhileEventsAreChained(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 4, 9} {
		v, at, all := kept(t, 60)
		want := eventIDs(all)
		var got []string
		for f := (tokenstore.EventFilter{Limit: limit}); ; {
			page, next, err := v.Events(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, eventIDs(page)...)
			if next == "" {
				break
			}
			f.After = next
			*at = at.Add(time.Second)
			record(t, v, 1) // is newer than what the walk began with
			if len(got)%2 == 0 || limit > 1 {
				flush(t, v)
			}
		}
		slices.Reverse(got)
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d have %d events; want the %d that were there:\n%v\n%v", limit, len(got), len(want), got, want)
		}
	}
}

func TestEventsChainedLongAfterTheyHappenedAreFoundByTheirTime(t *testing.T) {
	t.Parallel()
	at := now
	v := openAudited(t, newStore(t), tokenstore.NewRootKey(), tokenstore.Options{Now: func() time.Time { return at }})
	var late []string
	for hour := range 20 {
		at = now.Add(time.Duration(hour) * time.Hour)
		record(t, v, 2)
		flush(t, v)
		if hour == 12 { // the clock was put back
			at = now.Add(3*time.Hour + time.Minute)
			late = record(t, v, 1)
			flush(t, v)
		}
	}
	got := events(t, v, tokenstore.EventFilter{From: now.Add(3 * time.Hour), Until: now.Add(4 * time.Hour)})
	if len(got) != 3 || got[2].ID != late[0] {
		t.Errorf("events of the fourth hour = %v; want the late one among three", eventIDs(got))
	}
	if report := verify(t, v, ""); !report.Whole() {
		t.Errorf("late events are faults: %+v", report.Faults)
	}
}

func TestOneCallReadsOnlySoMuch(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	const segments, each = 25, 1000
	for range segments {
		writes := make([]tokenstore.Write, each)
		for i := range writes {
			writes[i] = tokenstore.RecordEvent(v.NewEvent(t.Context(), tokenstore.EventTokenIssued))
		}
		commit(t, v, writes...)
		flush(t, v)
	}
	page, next, err := v.Events(t.Context(), tokenstore.EventFilter{JTI: "none"})
	if len(page) != 0 || next == "" || err != nil {
		t.Fatalf("Events = %d, %q, %v; want none and where to go on", len(page), next, err)
	}
	page, next, err = v.Events(t.Context(), tokenstore.EventFilter{JTI: "none", After: next})
	if len(page) != 0 || next != "" || err != nil {
		t.Errorf("Events behind = %d, %q, %v; want the end", len(page), next, err)
	}
	if n := len(events(t, v, tokenstore.EventFilter{Limit: 1000})); n != segments*each {
		t.Errorf("the trail has %d events; want %d", n, segments*each)
	}
}

func TestPartOfTheTrailThatDoesNotOpenDoesNotHideTheRest(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	row := a.row(tokenstore.KindAuditSegment, segmentRow(3))
	row.Sealed[len(row.Sealed)/2] ^= 1
	a.put(row)
	a.remove(tokenstore.KindAuditSegment, segmentRow(2))
	waiting := a.waiting()[0]
	waiting.Sealed[0] ^= 1
	a.put(waiting)
	page, next, err := a.vault.Events(t.Context(), tokenstore.EventFilter{})
	if len(page) != 10 || next != "" || !errors.Is(err, tokenstore.ErrTampered) {
		t.Errorf("Events = %d, %q, %v; want the 10 that open, and ErrTampered", len(page), next, err)
	}
	record(t, a.vault, 1)
	flush(t, a.vault) // goes around the event that does not open
	if report := verify(t, a.vault, ""); report.Number != 6 {
		t.Errorf("report = %+v; want what opens to be chained", report)
	}
}

func TestWhatIsNoCursorIsRefused(t *testing.T) {
	t.Parallel()
	v, _, _ := kept(t, 30)
	for _, after := range []string{"x", "..", "s.1", "s.-1.0", "s.1.-1", "s.1.1001", "w.1.", "w.1.nothing", "s.99999999999999999999.1", "s.1.1.1", "t.1.1"} {
		if _, _, err := v.Events(t.Context(), tokenstore.EventFilter{After: after}); !errors.Is(err, tokenstore.ErrCursor) {
			t.Errorf("Events after %q: %v; want ErrCursor", after, err)
		}
	}
	if _, _, err := v.Events(t.Context(), tokenstore.EventFilter{After: "s.281474976710655.1000"}); err != nil {
		t.Errorf("Events after a segment that is not there yet: %v", err)
	}
}
