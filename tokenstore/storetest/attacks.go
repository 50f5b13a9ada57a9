package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// attacked is a vault with records of every kind, in a store to which somebody writes who has no key.
type attacked struct {
	*tokenstore.Vault
	t     *testing.T
	open  func(t *testing.T) tokenstore.Store
	store tokenstore.Movable
	key   tokenstore.RootKey
	saved []tokenstore.Record
	ring  tokenstore.Row
	rows  []tokenstore.Row // all others
}

// RunAttacks checks that what somebody does who can write to a store, and has no key, is refused, and found by a verification: values in the places of others, and columns
// that are not as sealed, over all kinds.
func RunAttacks(t *testing.T, open func(t *testing.T) tokenstore.Store) {
	t.Helper()
	for name, test := range map[string]func(*attacked){
		"sealed values in the places of all others are refused": (*attacked).swap,
		"rows under other kinds and ids are refused":            (*attacked).move,
		"edited columns are refused":                            (*attacked).edit,
		"older values under newer versions are refused":         (*attacked).rollBack,
		"ring in which anything was changed is refused":         (*attacked).swapRing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, ok := open(t).(tokenstore.Movable)
			if !ok {
				t.Skip("rows are planted in a store that can be filled")
			}
			a := &attacked{t: t, open: open, store: store, key: tokenstore.NewRootKey()}
			a.fill()
			test(a)
			a.plant(a.rows...)
			if r := a.verify(); !r.Whole() || len(r.Remarks) > 0 {
				t.Errorf("after all was put back: %+v, %+v", r.Faults, r.Remarks)
			}
		})
	}
}

// fill makes two records of every kind that can have two.
func (a *attacked) fill() {
	v, err := tokenstore.Open(a.t.Context(), a.store, tokenstore.Options{Keys: []tokenstore.RootKey{a.key}})
	if err != nil {
		a.t.Fatal(err)
	}
	a.Vault = v
	for i := range 2 {
		for _, r := range a.records(i) {
			a.saved = append(a.saved, r)
			a.commit(tokenstore.Save(r))
			a.commit(tokenstore.Save(r)) // in its second version
		}
		a.commit(tokenstore.RecordEvent(a.NewEvent(a.t.Context(), tokenstore.EventGrantEnded)))
		if err := a.FlushAudit(a.t.Context()); err != nil { // which makes a segment
			a.t.Fatal(err)
		}
		if _, err := a.RunJob(a.t.Context(), fmt.Sprint("job-", i), time.Hour, func(context.Context) error { return nil }); err != nil {
			a.t.Fatal(err)
		}
	}
	a.commit(tokenstore.Save(&tokenstore.SigningKeys{Keys: []tokenstore.SigningKey{{ID: "kid", Algorithm: "ES256", JWK: []byte("{}")}}}))
	for range 2 {
		a.commit(tokenstore.RecordEvent(a.NewEvent(a.t.Context(), tokenstore.EventGrantEnded)))
	}
	for _, kind := range tokenstore.Kinds() {
		rows, err := a.store.List(a.t.Context(), kind, tokenstore.Query{})
		if err != nil || len(rows) == 0 {
			a.t.Fatalf("there are %d rows of the kind %s, %v", len(rows), kind, err)
		}
		for _, r := range rows {
			r.Kind = kind
			if kind == tokenstore.KindKeyring {
				a.ring = r
			} else {
				a.rows = append(a.rows, r)
			}
		}
	}
	if r := a.verify(); !r.Whole() || len(r.Remarks) > 0 {
		a.t.Fatalf("before the attack: %+v, %+v", r.Faults, r.Remarks)
	}
}

func (a *attacked) records(i int) []tokenstore.Record {
	ends, user := a.Now().Add(time.Hour), fmt.Sprint("user-", i)
	meta := func(kind string) tokenstore.Meta {
		return tokenstore.Meta{ID: fmt.Sprint(kind, "-", i), DeleteAfter: ends}
	}
	return []tokenstore.Record{
		&tokenstore.Client{Meta: meta("client"), RedirectURIs: []string{"http://127.0.0.1/cb"}, Address: "address"},
		&tokenstore.Login{Meta: meta("login"), Expires: ends},
		&tokenstore.Account{Meta: meta("account"), State: tokenstore.StateActive, Provider: "okta", UserID: user, OwnerID: "owner"},
		&tokenstore.Grant{
			Meta: meta("grant"), State: tokenstore.StateActive, ClientID: "client-1", Client: "Chatbot", Proxy: "github", UserID: user, User: tokenstore.User{Provider: "okta"},
			AccountID: fmt.Sprint("account-", i), Expires: ends, Ends: ends, Provider: "okta",
		},
		&tokenstore.Code{Meta: meta("code"), GrantID: fmt.Sprint("grant-", i), Expires: ends},
		&tokenstore.Consent{Meta: meta("consent"), UserID: user, ClientID: "client-1"},
		&tokenstore.Assertion{Meta: meta("assertion"), ClientID: "client-1"},
		&tokenstore.Registration{Meta: meta("registration"), Issuer: "https://okta.test"},
		&tokenstore.APIKey{Meta: meta("apikey"), Name: "x", Created: ends, Expires: ends},
		&tokenstore.SignIn{Meta: meta("signin"), UserID: user, Expires: ends},
		&tokenstore.RevocationOrder{Meta: meta("order"), Filter: tokenstore.RevocationFilter{UserID: "nobody"}, Created: ends},
	}
}

func (a *attacked) commit(writes ...tokenstore.Write) {
	a.t.Helper()
	if err := a.Commit(a.t.Context(), writes...); err != nil {
		a.t.Fatal(err)
	}
}

// plant writes rows behind the vault's back.
func (a *attacked) plant(rows ...tokenstore.Row) { a.write(rows, nil) }

func (a *attacked) write(rows []tokenstore.Row, gone []tokenstore.Row) {
	a.t.Helper()
	filling := tokenstore.Freeze{State: tokenstore.FreezeFilling, Vault: "x", From: "mallory", Since: time.UnixMilli(1)}
	if err := a.store.Freeze(a.t.Context(), tokenstore.Freeze{}, filling); err != nil {
		a.t.Fatal(err)
	}
	for _, kind := range tokenstore.Kinds() {
		var of []tokenstore.Row
		var ids []string
		for _, r := range rows {
			if r.Kind == kind {
				of = append(of, r)
			}
		}
		for _, r := range gone {
			if r.Kind == kind {
				ids = append(ids, r.ID)
			}
		}
		if err := a.store.Import(a.t.Context(), kind, of, ids); err != nil {
			a.t.Fatalf("%s: %v", kind, err)
		}
	}
	if err := a.store.Freeze(a.t.Context(), filling, tokenstore.Freeze{}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *attacked) verify() *tokenstore.Verification {
	a.t.Helper()
	r, err := a.Verify(a.t.Context(), nil)
	if err != nil {
		a.t.Fatalf("Verify: %v", err)
	}
	return r
}

// wantRefused checks that none of the rows opens, and that a verification names each.
func (a *attacked) wantRefused(what string, rows ...tokenstore.Row) {
	a.t.Helper()
	report := a.verify()
	damaged := 0
	for _, k := range report.Records {
		damaged += k.Damaged
	}
	if damaged != len(rows) || report.MoreFaults > 0 {
		a.t.Errorf("%s: %d rows are damaged; want %d", what, damaged, len(rows))
	}
	for _, r := range rows {
		if !slices.ContainsFunc(report.Faults, func(f tokenstore.Fault) bool {
			return f.Class == tokenstore.FaultSealed && f.Kind == r.Kind && f.ID == r.ID && f.Advice != ""
		}) {
			a.t.Errorf("%s: the verification does not name %s %s", what, r.Kind, r.ID)
		}
		if err := a.read(r.Kind, r.ID); !errors.Is(err, tokenstore.ErrTampered) && !errors.Is(err, tokenstore.ErrNotFound) {
			a.t.Errorf("%s: %s %s reads as %v; want ErrTampered, or ErrNotFound", what, r.Kind, r.ID, err)
		}
	}
}

// read asks for a record as the gateway does, as far as it asks for one of the kind by its id; what is read together is refused together.
func (a *attacked) read(kind tokenstore.Kind, id string) (err error) {
	ctx := a.t.Context()
	switch kind {
	case tokenstore.KindClient:
		_, err = a.Client(ctx, id)
	case tokenstore.KindLogin:
		_, err = a.Login(ctx, id)
	case tokenstore.KindCode:
		_, err = a.Code(ctx, id)
	case tokenstore.KindGrant:
		_, err = a.Grant(ctx, id)
	case tokenstore.KindAccount:
		_, err = a.Account(ctx, id)
	case tokenstore.KindConsent:
		_, err = a.Consent(ctx, id)
	case tokenstore.KindRegistration:
		_, err = a.Registration(ctx, id)
	case tokenstore.KindAPIKey:
		_, err = a.APIKey(ctx, id)
	case tokenstore.KindSignIn:
		_, err = a.SignIn(ctx, id)
	case tokenstore.KindRevocationOrder:
		_, err = a.RevocationOrder(ctx, id)
	case tokenstore.KindEvent:
		_, err = a.Event(ctx, id)
	case tokenstore.KindJob:
		_, err = a.JobBegan(ctx, id)
	case tokenstore.KindSigningKeys:
		if err = tokenstore.ErrNotFound; id == "keys" { // for which nobody asks
			_, err = a.SigningKeys(ctx)
		}
	default: // assertions are never read, and the trail's chain is read as a whole
		err = tokenstore.ErrTampered
	}
	return err
}

// swap puts every sealed value into the place of every other one.
func (a *attacked) swap() {
	values := append(slices.Clone(a.rows), a.ring)
	for by := 1; by < len(values); by++ {
		planted := slices.Clone(a.rows)
		for i := range planted {
			planted[i].Sealed = values[(i+by)%len(values)].Sealed
		}
		a.plant(planted...)
		a.wantRefused(fmt.Sprintf("values moved on by %d", by), planted...)
	}
	other := a.another()
	planted := slices.Clone(a.rows)
	for i := range planted {
		planted[i].Sealed = other.rows[i].Sealed // they are in the same order
	}
	a.plant(planted...)
	a.wantRefused("values of another vault with the same encryption key", planted...)
}

// move puts every row under every other kind, and under another id.
func (a *attacked) move() {
	for _, kind := range tokenstore.Kinds() {
		if kind == tokenstore.KindKeyring {
			continue
		}
		var planted []tokenstore.Row
		for _, r := range append(slices.Clone(a.rows), a.ring) {
			if r.Kind == kind {
				r.ID += "x"
			} else {
				r.Kind = kind
			}
			if len(r.ID) < 12 && kind == tokenstore.KindAuditSegment {
				r.ID = "9" + strings.Repeat("0", 11-len(r.ID)) + r.ID // behind the segments that there are
			}
			planted = append(planted, r)
		}
		a.plant(append(planted, a.of(kind)...)...)
		a.wantRefused("rows of all kinds as "+string(kind), planted...)
		a.write(nil, planted)
		a.plant(a.rows...)
	}
}

func (a *attacked) of(kind tokenstore.Kind) []tokenstore.Row {
	return slices.DeleteFunc(slices.Clone(a.rows), func(r tokenstore.Row) bool { return r.Kind != kind })
}

// edit changes every column of every row, one at a time.
func (a *attacked) edit() {
	for name, edit := range map[string]func(*tokenstore.Row){
		"version ahead":        func(r *tokenstore.Row) { r.Version++ },
		"version back":         func(r *tokenstore.Row) { r.Version = max(1, r.Version-1) },
		"state":                func(r *tokenstore.Row) { r.State = "revoked" },
		"state of none":        func(r *tokenstore.Row) { r.State = "" },
		"state in capitals":    func(r *tokenstore.Row) { r.State = strings.ToUpper(r.State) },
		"one more reference":   func(r *tokenstore.Row) { r.Refs = append(slices.Clone(r.Refs), "user:mallory") },
		"one reference less":   func(r *tokenstore.Row) { r.Refs = r.Refs[min(1, len(r.Refs)):] },
		"no references":        func(r *tokenstore.Row) { r.Refs = nil },
		"another reference":    func(r *tokenstore.Row) { r.Refs = append(slices.Clone(r.Refs[min(1, len(r.Refs)):]), "user:mallory") },
		"references as one":    func(r *tokenstore.Row) { r.Refs = strings.Fields(strings.Join(r.Refs, "")) },
		"later deletion":       func(r *tokenstore.Row) { r.DeleteAfter = r.DeleteAfter.Add(100 * 365 * 24 * time.Hour) },
		"sooner deletion":      func(r *tokenstore.Row) { r.DeleteAfter = time.UnixMilli(1) },
		"no deletion":          func(r *tokenstore.Row) { r.DeleteAfter = time.Time{} },
		"another due":          func(r *tokenstore.Row) { r.Due = time.UnixMilli(1) },
		"no due":               func(r *tokenstore.Row) { r.Due = time.Time{} },
		"no value":             func(r *tokenstore.Row) { r.Sealed = nil },
		"value cut":            func(r *tokenstore.Row) { r.Sealed = r.Sealed[:len(r.Sealed)-1] },
		"value with more":      func(r *tokenstore.Row) { r.Sealed = append(slices.Clone(r.Sealed), 0) },
		"bit of the header":    func(r *tokenstore.Row) { r.Sealed = flip(r.Sealed, 5) },
		"bit of the nonce":     func(r *tokenstore.Row) { r.Sealed = flip(r.Sealed, 12) },
		"bit of the text":      func(r *tokenstore.Row) { r.Sealed = flip(r.Sealed, len(r.Sealed)/2) },
		"bit of the tag":       func(r *tokenstore.Row) { r.Sealed = flip(r.Sealed, len(r.Sealed)-1) },
		"other cipher":         func(r *tokenstore.Row) { r.Sealed = flip(r.Sealed, 2) },
		"value of nothing":     func(r *tokenstore.Row) { r.Sealed = []byte(`{"record":{"state":"active"}}`) },
		"a year's difference":  func(r *tokenstore.Row) { r.DeleteAfter = r.DeleteAfter.Add(-365 * 24 * time.Hour) },
		"a moment's more life": func(r *tokenstore.Row) { r.DeleteAfter = r.DeleteAfter.Add(time.Millisecond) },
	} {
		var planted []tokenstore.Row
		for _, r := range a.rows {
			edited := r
			edit(&edited)
			if compare(edited, r) != "" {
				planted = append(planted, edited)
			}
		}
		if len(planted) < 2 {
			a.t.Errorf("%s: changes %d rows", name, len(planted))
		}
		a.plant(planted...)
		a.wantRefused(name, planted...)
		a.plant(a.rows...)
	}
}

func flip(value []byte, i int) []byte {
	value = slices.Clone(value)
	value[i] ^= 1
	return value
}

// rollBack saves every record that was saved once more, and puts the values of before under the new versions.
func (a *attacked) rollBack() {
	for _, r := range a.saved {
		a.commit(tokenstore.Save(r))
	}
	var planted []tokenstore.Row
	for i, before := range a.rows {
		now, err := a.store.Get(a.t.Context(), before.Kind, before.ID)
		if err != nil {
			a.t.Fatal(err)
		}
		now.Kind = before.Kind
		if a.rows[i] = now; now.Version == before.Version {
			continue
		}
		now.Sealed = before.Sealed
		planted = append(planted, now)
	}
	if len(planted) != len(a.saved) {
		a.t.Errorf("%d rows are in another version; want %d", len(planted), len(a.saved))
	}
	a.plant(planted...)
	a.wantRefused("values of the version before", planted...)
}

// swapRing changes the row of the keyring: the vault does not open, or nothing in it does.
func (a *attacked) swapRing() {
	planted := map[string]tokenstore.Row{}
	for _, r := range a.rows {
		ring := a.ring
		ring.Sealed = r.Sealed
		planted["value of "+string(r.Kind)+" "+r.ID] = ring
	}
	for i := 0; i < len(a.ring.Sealed); i += 7 {
		ring := a.ring
		ring.Sealed = flip(a.ring.Sealed, i)
		planted[fmt.Sprint("flipped byte ", i)] = ring
	}
	ring := a.ring
	ring.Version++
	planted["version"] = ring
	for name, row := range planted {
		a.plant(row)
		_, err := tokenstore.OpenReadOnly(a.t.Context(), a.store, tokenstore.Options{Keys: []tokenstore.RootKey{a.key}})
		if !errors.Is(err, tokenstore.ErrTampered) && !errors.Is(err, tokenstore.ErrWrongKey) {
			a.t.Errorf("%s in the place of the ring: %v; want ErrTampered or ErrWrongKey", name, err)
		}
	}
	other := a.another()
	a.plant(other.ring)
	v, err := tokenstore.OpenReadOnly(a.t.Context(), a.store, tokenstore.Options{Keys: []tokenstore.RootKey{a.key}})
	if err != nil {
		a.t.Fatal(err)
	}
	whole := a.Vault
	a.Vault = v
	a.wantRefused("ring of another vault with the same encryption key", a.rows...)
	a.Vault = whole
	a.plant(a.ring)
}

// another is a vault of the same records and the same encryption key in another store.
func (a *attacked) another() *attacked {
	other := &attacked{t: a.t, open: a.open, store: a.open(a.t).(tokenstore.Movable), key: a.key} //nolint:forcetypeassert // as that of a is
	other.fill()
	return other
}
