package tokenstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// heard collects the events that a vault says are recorded.
type heard struct {
	mu     sync.Mutex
	events []*tokenstore.Event
}

func (h *heard) recorded(e *tokenstore.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func (h *heard) ids() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return eventIDs(h.events)
}

func eventIDs(events []*tokenstore.Event) []string {
	ids := make([]string, len(events))
	for i, e := range events {
		ids[i] = e.ID
	}
	return ids
}

func openAudited(t testing.TB, s tokenstore.Store, key tokenstore.RootKey, o tokenstore.Options) *tokenstore.Vault {
	t.Helper()
	o.Keys = []tokenstore.RootKey{key}
	if o.Now == nil {
		o.Now = clock
	}
	v, err := tokenstore.Open(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// record records so many events, each in a commit of its own, and returns their ids.
func record(t testing.TB, v *tokenstore.Vault, n int) (ids []string) {
	t.Helper()
	for range n {
		e := v.NewEvent(t.Context(), tokenstore.EventTokenIssued)
		commit(t, v, tokenstore.RecordEvent(e))
		ids = append(ids, e.ID)
	}
	return ids
}

func flush(t testing.TB, v *tokenstore.Vault) {
	t.Helper()
	if err := v.FlushAudit(t.Context()); err != nil {
		t.Fatalf("FlushAudit: %v", err)
	}
}

// events walks the whole trail, oldest first.
func events(t testing.TB, v *tokenstore.Vault, f tokenstore.EventFilter) (all []*tokenstore.Event) {
	t.Helper()
	for {
		page, next, err := v.Events(t.Context(), f)
		if err != nil {
			t.Fatalf("Events: %v", err)
		}
		all = append(all, page...)
		if next == "" {
			slices.Reverse(all)
			return all
		}
		f.After = next
	}
}

func wantEvents(t testing.TB, what string, got []*tokenstore.Event, want []string) {
	t.Helper()
	if ids := eventIDs(got); !slices.Equal(ids, want) {
		t.Errorf("%s: %d events; want %d: got %v\nwant %v", what, len(ids), len(want), ids, want)
	}
}

func TestEventComesBackAsItWasRecorded(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	ctx := tokenstore.WithAddress(tokenstore.WithActor(t.Context(), tokenstore.Actor{Kind: tokenstore.ActorOperator, ID: "user-9", Label: "ops@example.com"}), "192.0.2.7")
	e := v.NewEvent(ctx, tokenstore.EventGrantEnded).Refused("left the company")
	e.UserID, e.User, e.ClientID, e.Client = "user-1", "ann@example.com", "client-1", "Chatbot"
	e.Proxy, e.Provider, e.Grant, e.Account, e.Consent, e.JTI = "github", "okta", "grant-1", "account-1", "consent-1", "jti-1"
	e.Details = map[string]string{"scopes": "repo"}
	commit(t, v, tokenstore.RecordEvent(e))
	want := *e
	want.Meta = tokenstore.Meta{ID: e.ID}
	for _, where := range []string{"waiting", "chained"} {
		all := events(t, v, tokenstore.EventFilter{})
		if len(all) != 1 {
			t.Fatalf("%s: %d events; want 1", where, len(all))
		}
		all[0].Meta = tokenstore.Meta{ID: all[0].ID}
		if !reflect.DeepEqual(*all[0], want) {
			t.Errorf("%s: event is\n%+v; want\n%+v", where, *all[0], want)
		}
		one, err := v.Event(t.Context(), e.ID)
		if err != nil || one.ID != e.ID || one.Actor != e.Actor || one.Address != "192.0.2.7" {
			t.Errorf("%s: Event = %+v, %v", where, one, err)
		}
		flush(t, v)
	}
	if _, err := v.Event(t.Context(), v.NewEvent(ctx, "x").ID); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("Event that was never recorded: %v; want ErrNotFound", err)
	}
	if _, err := v.Event(t.Context(), "no id"); !errors.Is(err, tokenstore.ErrNotFound) {
		t.Errorf("Event of what is no id: %v; want ErrNotFound", err)
	}
	text, err := json.Marshal(e)
	if err != nil || !strings.HasPrefix(string(text), `{"id":"`+e.ID+`","time":"2026-11-21T12:00:00Z","type":"grant.ended","outcome":"refused","actor":{"kind":"operator"`) {
		t.Errorf("JSON = %s, %v", text, err)
	}
}

func TestT79WhatStrangersWriteInAnEventIsCutAndCleaned(t *testing.T) {
	t.Parallel()
	v := openVault(t, newStore(t), tokenstore.NewRootKey())
	e := v.NewEvent(tokenstore.WithAddress(t.Context(), "192.0.2.7\n"), tokenstore.EventClientRegistered).Refused("a\x1b[31mb\u202ec\x00")
	e.Client = "{env.GW_SECRET}\r\n{\"level\":\"x\"}\xff=cmd|<script>"
	e.ClientID = strings.Repeat("x", 10_000)
	e.Details = map[string]string{"redirect_uris": strings.Repeat("ä\u2028", 5000), "none": ""}
	for i := range 40 {
		e.Details[strings.Repeat("n", i+1)] = "more"
	}
	commit(t, v, tokenstore.RecordEvent(e))
	got := events(t, v, tokenstore.EventFilter{})[0]
	if want := "{env.GW_SECRET}  {\"level\":\"x\"}\uFFFD=cmd|<script>"; got.Client != want {
		t.Errorf("Client = %q; want %q", got.Client, want)
	}
	if want := "a [31mb c "; got.Reason != want {
		t.Errorf("Reason = %q; want %q", got.Reason, want)
	}
	if n := len([]rune(got.ClientID)); n != 257 || len(got.Details) > 16 || got.Address != "192.0.2.7 " {
		t.Errorf("ClientID has %d characters, there are %d details, the address is %q", n, len(got.Details), got.Address)
	}
	for name, value := range got.Details {
		if len([]rune(value)) > 257 || strings.ContainsRune(value, '\u2028') || value == "" {
			t.Errorf("detail %s = %q", name, value)
		}
	}
}

func TestEventIsRecordedWithItsActOrNotAtAll(t *testing.T) {
	t.Parallel()
	var h heard
	v := openAudited(t, newStore(t), tokenstore.NewRootKey(), tokenstore.Options{Recorded: h.recorded})
	first, stale := newGrant("grant-1"), newGrant("grant-1")
	e := v.NewEvent(t.Context(), tokenstore.EventTokenIssued)
	commit(t, v, tokenstore.Save(first), tokenstore.RecordEvent(e))
	lost := v.NewEvent(t.Context(), tokenstore.EventTokenIssued)
	if err := v.Commit(t.Context(), tokenstore.Save(stale), tokenstore.RecordEvent(lost)); !errors.Is(err, tokenstore.ErrConflict) {
		t.Fatalf("Commit = %v; want ErrConflict", err)
	}
	wantEvents(t, "trail", events(t, v, tokenstore.EventFilter{}), []string{e.ID})
	if ids := h.ids(); !slices.Equal(ids, []string{e.ID}) {
		t.Errorf("Recorded was called for %v; want %s", ids, e.ID)
	}
	stale.Version = first.Version
	commit(t, v, tokenstore.Save(stale), tokenstore.RecordEvent(lost)) // decided again
	wantEvents(t, "trail after the second attempt", events(t, v, tokenstore.EventFilter{}), []string{e.ID, lost.ID})
}

func TestVaultWithoutAuditTrailKeepsNoEventAndTellsOfEach(t *testing.T) {
	t.Parallel()
	var h heard
	v := openAudited(t, newStore(t), tokenstore.NewRootKey(), tokenstore.Options{Recorded: h.recorded, Audit: tokenstore.AuditOptions{Off: true}})
	alone, with, noted := v.NewEvent(t.Context(), "a"), v.NewEvent(t.Context(), "b"), v.NewEvent(t.Context(), "c")
	commit(t, v, tokenstore.RecordEvent(alone))
	commit(t, v, tokenstore.Save(newGrant("grant-1")), tokenstore.RecordEvent(with))
	v.Note(noted)
	flush(t, v)
	wantEvents(t, "trail", events(t, v, tokenstore.EventFilter{}), nil)
	if ids := h.ids(); !slices.Equal(ids, []string{alone.ID, with.ID, noted.ID}) {
		t.Errorf("Recorded was called for %v", ids)
	}
	if _, err := v.Grant(t.Context(), "grant-1"); err != nil {
		t.Errorf("what the event was committed with: %v", err)
	}
}

func TestActorIsTheGatewayWhereNobodySaid(t *testing.T) {
	t.Parallel()
	if a := tokenstore.ActorFrom(context.Background()); a != (tokenstore.Actor{Kind: tokenstore.ActorGateway}) {
		t.Errorf("ActorFrom = %+v", a)
	}
}

func TestEventIDsOrderByTimeAndThenByTheirMaking(t *testing.T) {
	t.Parallel()
	at := now
	v := openAudited(t, newStore(t), tokenstore.NewRootKey(), tokenstore.Options{Now: func() time.Time { return at }})
	var ids []string
	for i := range 100 {
		if i%10 == 9 {
			at = at.Add(time.Millisecond)
		}
		ids = append(ids, v.NewEvent(t.Context(), "x").ID)
	}
	if !slices.IsSorted(ids) {
		t.Errorf("ids are not in the order of their making: %v", ids)
	}
	for _, id := range ids {
		if len(id) != 26 || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
			t.Errorf("id %q; want 26 characters of 2-7 and A-Z", id)
		}
	}
}
