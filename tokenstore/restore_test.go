package tokenstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/bbolt"
)

func restoring(t *testing.T, backup []byte, to tokenstore.Movable, key tokenstore.RootKey, c tokenstore.CatchUp) *tokenstore.Restore {
	t.Helper()
	read, err := tokenstore.CheckBackup(t.Context(), bytes.NewReader(backup), []tokenstore.RootKey{key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &tokenstore.Restore{
		Backup: read, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(backup)), nil },
		To: to, Target: "the new store", Options: tokenstore.Options{Keys: []tokenstore.RootKey{key}, Now: clock}, CatchUp: c,
	}
}

func auditLog(t *testing.T, lines string) *tokenstore.AuditLog {
	t.Helper()
	l := new(tokenstore.AuditLog)
	if err := l.Read(strings.NewReader(lines)); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRestoredVaultIsTheOneThatWasBackedUp(t *testing.T) {
	t.Parallel()
	s, v, key, backup := backedUp(t)
	to := newStore(t).(*bbolt.Store)
	if _, err := restoring(t, backup, to, key, tokenstore.CatchUp{Revive: true}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantState(t, to, "")
	restored := openVault(t, to, key)
	if restored.Identity() != v.Identity() {
		t.Error("the restored vault is another one")
	}
	ended := map[tokenstore.Kind]bool{tokenstore.KindSignIn: true, tokenstore.KindLogin: true, tokenstore.KindCode: true}
	after := rowsOf(t, to)
	for name, row := range rowsOf(t, s) {
		got, there := after[name]
		switch {
		case ended[row.Kind]:
			if there {
				t.Errorf("%s lives again", name)
			}
		case row.Kind == tokenstore.KindSigningKeys:
			if keys, err := restored.SigningKeys(t.Context()); err != nil || len(keys.Keys) > 0 {
				t.Errorf("signing keys: %+v, %v", keys, err)
			}
		case row.Kind == tokenstore.KindAuditHead:
		case !there || !bytes.Equal(got.Sealed, row.Sealed) || got.Version != row.Version:
			t.Errorf("%s is not as it was", name)
		}
	}
	if report, err := restored.VerifyAudit(t.Context(), ""); err != nil || !report.Whole() {
		t.Errorf("audit trail: %+v, %v", report, err)
	}
	if _, err := restoring(t, backup, to, key, tokenstore.CatchUp{Revive: true}).Run(t.Context()); !errors.Is(err, tokenstore.ErrRestore) || !strings.Contains(err.Error(), "--in-place") {
		t.Errorf("restore over a vault: %v", err)
	}
}

// breaking is a store in which an Import fails after some.
type breaking struct {
	*bbolt.Store
	imports int
}

func (b *breaking) Import(ctx context.Context, kind tokenstore.Kind, rows []tokenstore.Row, gone []string) error {
	if b.imports--; b.imports < 0 {
		return errors.New("cut off")
	}
	return b.Store.Import(ctx, kind, rows, gone)
}

func TestRestoreThatWasCutOffBeginsAnewAndIsNotServed(t *testing.T) {
	t.Parallel()
	_, _, key, backup := backedUp(t)
	_, _, otherKey, other := backedUp(t)
	to := newStore(t).(*bbolt.Store)
	for imports := range 100 {
		r := restoring(t, backup, &breaking{to, imports}, key, tokenstore.CatchUp{EndAll: true})
		if _, err := r.Run(t.Context()); err == nil {
			if imports < 20 {
				t.Errorf("only %d imports were made", imports)
			}
			break
		} else if !strings.Contains(err.Error(), "cut off") || !strings.Contains(err.Error(), "again") {
			t.Fatalf("restore that was cut off: %v", err)
		}
		if _, err := tokenstore.MayServe(t.Context(), to); err == nil || !strings.Contains(err.Error(), "caddy oauth-proxy restore") {
			t.Fatalf("a store that is not whole may be served: %v", err)
		}
		if err := restoring(t, other, to, otherKey, tokenstore.CatchUp{Revive: true}).Check(t.Context()); !errors.Is(err, tokenstore.ErrRestore) {
			t.Fatalf("restore of another backup over it: %v", err)
		}
	}
	if _, err := tokenstore.MayServe(t.Context(), to); err != nil {
		t.Error(err)
	}
	v := openVault(t, to, key)
	if orders, err := v.RevocationOrders(t.Context(), true); err != nil || len(orders) != 1 {
		t.Errorf("%d orders are in force, %v", len(orders), err)
	}
	if report, err := v.VerifyAudit(t.Context(), ""); err != nil || !report.Whole() {
		t.Errorf("audit trail: %+v, %v", report, err)
	}
}

func TestRestoreNoticesABackupThatChangesMeanwhile(t *testing.T) {
	t.Parallel()
	s, v, key, backup := backedUp(t)
	g := newGrant("grant-of-later")
	commit(t, v, tokenstore.Save(g))
	later := takeBackup(t, v, s)
	to := newStore(t).(*bbolt.Store)
	r := restoring(t, backup, to, key, tokenstore.CatchUp{Revive: true})
	r.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(later)), nil }
	if _, err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "not the same") {
		t.Errorf("Run = %v", err)
	}
	wantState(t, to, tokenstore.FreezeFilling)
}

// What was ended after the backup lives again only where that was asked for.
func TestT76RestoreEndsAgainWhatTheLogSaysWasEnded(t *testing.T) {
	t.Parallel()
	s, key := newStore(t).(*bbolt.Store), tokenstore.NewRootKey()
	v := openVault(t, s, key)
	for i := range 4 {
		g, a := newGrant(fmt.Sprintf("grant-%d", i)), newAccount(fmt.Sprintf("account-%d", i))
		g.AccountID, g.UserID, a.UserID, g.ClientID = a.ID, fmt.Sprintf("user-%d", i), fmt.Sprintf("user-%d", i), fmt.Sprintf("client-%d", i)
		commit(t, v, tokenstore.Save(g), tokenstore.Save(a), tokenstore.Save(&tokenstore.APIKey{Meta: tokenstore.Meta{ID: fmt.Sprintf("key-%d", i)}, Name: "k"}),
			tokenstore.Save(&tokenstore.Consent{Meta: tokenstore.Meta{ID: fmt.Sprintf("consent-%d", i)}, UserID: g.UserID, ClientID: g.ClientID}),
			tokenstore.Save(&tokenstore.Client{Meta: tokenstore.Meta{ID: g.ClientID}}), tokenstore.RecordEvent(v.NewEvent(t.Context(), tokenstore.EventTokenIssued)))
	}
	backup := takeBackup(t, v, s)
	const lines = `{"level":"info","logger":"http.log.access","msg":"handled request"}
{"logger":"oauth_proxy.audit","type":"token.issued","id":"A","time":"2026-11-21T11:00:00Z","outcome":"ok","grant":"grant-0","actor":{"kind":"client"}}
{"logger":"oauth_proxy.audit","type":"grant.ended","id":"B","time":"2026-11-21T12:30:00Z","outcome":"ok","grant":"grant-1","reason":"left","actor":{"kind":"user","id":"user-1"}}
{"logger":"oauth_proxy.audit","type":"grant.ended","id":"B2","time":"2026-11-21T12:30:01Z","outcome":"ok","grant":"of-later","actor":{"kind":"user"}}
{"logger":"oauth_proxy.audit","type":"grant.ended","id":"B3","time":"2026-11-21T12:30:01Z","outcome":"refused","grant":"grant-0","actor":{"kind":"user"}}
{"logger":"oauth_proxy.audit","type":"api_key.revoked","id":"C","time":"2026-11-21T12:31:00Z","outcome":"ok","grant":"key-1","actor":{"kind":"operator"}}
{"logger":"oauth_proxy.audit","type":"client.deleted","id":"D","time":"2026-11-21T12:32:00Z","outcome":"ok","client_id":"client-3","actor":{"kind":"operator"}}

{"logger":"oauth_proxy.audit","type":"revocation.ordered","id":"E","time":"2026-11-21T12:33:00Z","outcome":"ok","user_id":"user-2","reason":"gone","details":{"order":"ORDER1","by":"ops"},"actor":{"kind":"operator"}}
`
	for name, tt := range map[string]struct {
		choice                       tokenstore.CatchUp
		grants, keys, orders, client int
	}{
		"log":    {tokenstore.CatchUp{AuditLog: auditLog(t, lines)}, 1, 1, 1, 1},
		"all":    {tokenstore.CatchUp{EndAll: true}, 0, 4, 1, 0},
		"revive": {tokenstore.CatchUp{Revive: true}, 0, 0, 0, 0},
	} {
		to := newStore(t).(*bbolt.Store)
		done, err := restoring(t, backup, to, key, tt.choice).Run(t.Context())
		if err != nil || done.Grants != tt.grants || done.APIKeys != tt.keys || done.Orders != tt.orders || done.Clients != tt.client || done.Unreadable != 0 {
			t.Fatalf("%s: %+v, %v", name, done, err)
		}
		r := openVault(t, to, key)
		orders, err := r.RevocationOrders(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			g, err := r.Grant(t.Context(), fmt.Sprintf("grant-%d", i))
			if err != nil {
				t.Fatal(err)
			}
			alive := g.State == tokenstore.StateActive
			for _, o := range orders {
				alive = alive && !o.MeansGrant(g)
			}
			want := name == "revive" || name == "log" && i != 1 && i != 2
			if alive != want {
				t.Errorf("%s: %s lives: %t", name, g.ID, alive)
			}
			k, err := r.APIKey(t.Context(), fmt.Sprintf("key-%d", i))
			if err != nil || k.Revoked.IsZero() != (name == "revive" || name == "log" && i != 1) {
				t.Errorf("%s: %s was revoked at %s, %v", name, k.ID, k.Revoked, err)
			}
			a, err := r.Account(t.Context(), g.AccountID)
			if err != nil || (a.RefreshToken == "") != (name == "log" && i == 1) || (a.Revocation != nil) != (name == "log" && i == 1) {
				t.Errorf("%s: %+v, %v", name, a, err)
			}
			consents, err := r.Consents(t.Context(), g.UserID)
			if err != nil || (len(consents) == 0) != (name == "log" && i == 1) {
				t.Errorf("%s: %d consents of %s, %v", name, len(consents), g.UserID, err)
			}
		}
		if _, err := r.Client(t.Context(), "client-3"); errors.Is(err, tokenstore.ErrNotFound) != (name == "log") {
			t.Errorf("%s: the client that was deleted: %v", name, err)
		}
	}
}

func TestT76LogThatCannotKnowWhatWasEndedIsRefused(t *testing.T) {
	t.Parallel()
	_, _, key, backup := backedUp(t)
	for name, tt := range map[string]struct{ log, want string }{
		"empty":       {"", "no event at all"},
		"of others":   {`{"logger":"http","type":"grant.ended","time":"2020-01-01T00:00:00Z"}`, "no event at all"},
		"begins late": {`{"logger":"oauth_proxy.audit","type":"x","time":"2026-11-21T12:00:00.001Z"}`, "older files"},
	} {
		_, err := restoring(t, backup, newStore(t).(*bbolt.Store), key, tokenstore.CatchUp{AuditLog: auditLog(t, tt.log)}).Run(t.Context())
		if !errors.Is(err, tokenstore.ErrCatchUp) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, choice := range map[string]tokenstore.CatchUp{"none": {}, "two": {EndAll: true, Revive: true}} {
		if _, err := restoring(t, backup, newStore(t).(*bbolt.Store), key, choice).Run(t.Context()); !errors.Is(err, tokenstore.ErrCatchUp) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, line := range map[string]string{
		"text": "2026/11/21 grant ended", "cut off": `{"logger":"oauth_proxy.audit","type":"grant.en`, "no id": `{"logger":"oauth_proxy.audit","type":"grant.ended","outcome":"ok","time":"2026-11-21T12:00:00Z"}`,
		"no time": `{"logger":"oauth_proxy.audit","type":"grant.ended","outcome":"ok","grant":"g"}`,
	} {
		if err := new(tokenstore.AuditLog).Read(strings.NewReader("{}\n" + line + "\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestT76VaultThatWasSetBackDoesNotHoldItsAnchor(t *testing.T) {
	t.Parallel()
	_, v, key, backup := backedUp(t)
	anchor := func(v *tokenstore.Vault) tokenstore.Anchor {
		t.Helper()
		a, err := v.Anchor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	grow := func(v *tokenstore.Vault) {
		t.Helper()
		v.Note(v.NewEvent(t.Context(), tokenstore.EventTokenIssued))
		if err := v.FlushAudit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	first := anchor(v)
	grow(v)
	second := anchor(v)
	for i := range 3 {
		for _, a := range []tokenstore.Anchor{{}, first, second} {
			if err := v.Holds(t.Context(), a); err != nil {
				t.Errorf("the vault itself, %d segments later: %v", i, err)
			}
		}
		grow(v)
	}

	later := second
	later.Restored = now
	if err := v.Holds(t.Context(), later); !errors.Is(err, tokenstore.ErrSetBack) {
		t.Errorf("the anchor of after a restore that it has not seen: %v", err)
	}

	back := newStore(t).(*bbolt.Store) // as a copy of the file would be
	filling := tokenstore.Freeze{State: tokenstore.FreezeFilling}
	if err := back.Freeze(t.Context(), tokenstore.Freeze{}, filling); err != nil {
		t.Fatal(err)
	}
	in, err := tokenstore.ReadBackup(bytes.NewReader(backup))
	if err != nil {
		t.Fatal(err)
	}
	for {
		row, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err := errors.Join(err, back.Import(t.Context(), row.Kind, []tokenstore.Row{*row}, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := back.Freeze(t.Context(), filling, tokenstore.Freeze{}); err != nil {
		t.Fatal(err)
	}
	older := openVault(t, back, key)
	if err := older.Holds(t.Context(), first); err != nil {
		t.Errorf("the anchor of when it was copied: %v", err)
	}
	for range 4 { // however long it runs on
		if err := older.Holds(t.Context(), second); !errors.Is(err, tokenstore.ErrSetBack) {
			t.Fatalf("the anchor of after the copy: %v", err)
		}
		grow(older)
	}
	if _, err := older.CatchUp(t.Context(), tokenstore.CatchUp{Revive: true}, "a copy"); err != nil {
		t.Fatal(err)
	}
	for _, a := range []tokenstore.Anchor{first, second, anchor(v), anchor(older)} {
		if err := older.Holds(t.Context(), a); err != nil {
			t.Errorf("after it was said what is to become of what was ended: %v", err)
		}
	}
	restored := anchor(older)
	if err := v.Holds(t.Context(), restored); !errors.Is(err, tokenstore.ErrSetBack) {
		t.Errorf("the vault of before the restore: %v", err)
	}
	if _, err := older.CatchUp(t.Context(), tokenstore.CatchUp{Revive: true}, "again"); err != nil {
		t.Fatal(err)
	}
	if again := anchor(older); !again.Restored.After(restored.Restored) {
		t.Errorf("restored at %s, and then at %s, with a clock that stands", restored.Restored, again.Restored)
	}
}

func TestT76AnchorPastTheRetentionIsHeld(t *testing.T) {
	t.Parallel()
	s, v, _, _ := backedUp(t)
	a, err := v.Anchor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		v.Note(v.NewEvent(t.Context(), tokenstore.EventTokenIssued))
		if err := v.FlushAudit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpDelete, Row: tokenstore.Row{Kind: tokenstore.KindAuditSegment, ID: "000000000002", Version: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := v.Holds(t.Context(), a); !errors.Is(err, tokenstore.ErrSetBack) {
		t.Errorf("without the segment behind it: %v", err)
	}
	if _, err := s.Sweep(t.Context(), tokenstore.KindAuditSegment, now.AddDate(1, 0, 0), 100); err != nil {
		t.Fatal(err)
	}
	if err := v.Holds(t.Context(), a); err != nil {
		t.Errorf("with everything past its time: %v", err)
	}
	a.Number = 100
	if err := v.Holds(t.Context(), a); !errors.Is(err, tokenstore.ErrSetBack) {
		t.Errorf("the anchor of a later one: %v", err)
	}
}
