package authserver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestManyGrantsAreRefusedAtOnceAndEnd(t *testing.T) {
	t.Parallel()
	const many = massRevoked
	w, gate := gatedWorld(t)
	b, one := w.session()
	other, living := w.session()
	grants := w.fill(many-1, w.grantOf(one.access))
	node := w.node()
	used := []string{one.access} // before
	for i := 0; i < len(grants); i += 997 {
		got := w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, grants[i].refresh)))
		used, grants[i].refresh = append(used, got.access), got.refresh
	}
	filter := authserver.RevocationFilter{ClientID: b.id}
	begun := time.Now()
	if n, err := w.server.CountGrants(t.Context(), filter); err != nil || n != many {
		t.Errorf("dry run: %d, %v", n, err)
	}
	counted := time.Since(begun)
	begun = time.Now()
	order := w.revoke(filter)
	answered := time.Since(begun)
	if order.Matched != many || order.Ended != 0 || order.By != "ann" || order.Reason != "a leak" || order.Filter != filter || !order.Done.IsZero() || order.Created.IsZero() {
		t.Errorf("order %+v", order)
	}

	for _, access := range used {
		if w.works(access) {
			t.Error("an access token is accepted after the order")
		}
	}
	for i := 0; i < len(grants); i += 97 {
		a := w.postForm(endpoints+"/a/token", refreshForm(b, grants[i].refresh))
		if a.oauthError(t) != "invalid_grant" || strings.Contains(a.body, "a leak") {
			t.Fatalf("refresh after the order: %s", a.body)
		}
	}
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, one.refresh)); a.oauthError(t) != "invalid_grant" || !strings.Contains(a.body, "operator") {
		t.Errorf("refresh after the order: %s", a.body)
	}
	for _, g := range grants {
		if !w.server.Ended(t.Context(), g.id) {
			t.Fatalf("grant %s has not ended", g.id)
		}
	}
	waitFor(t, "another node to refuse", func() bool { return node.Ended(t.Context(), grants[many/2].id) })
	if active, revoked := w.states(b.id); active != many || revoked != 0 {
		t.Fatalf("the rows of %d grants are as before, of %d not: nothing was shown", active, revoked)
	}
	if !w.works(living.access) {
		t.Error("another client's token is refused")
	}
	fresh := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
	if !w.works(fresh.access) {
		t.Error("the token of a login after the order is refused")
	}

	begun = time.Now()
	gate.batches.Store(open)
	done := w.finished(order.ID)
	t.Logf("%d grants: counted in %s, refused in %s, ended in their rows %s after that was let begin", many, counted.Round(time.Millisecond),
		answered.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	if done.Ended != many || done.Matched != many || done.Unreadable != 0 {
		t.Errorf("carried out: %+v", done)
	}
	if active, revoked := w.states(b.id); active != 1 || revoked != many {
		t.Errorf("%d active, %d revoked", active, revoked)
	}
	for _, f := range []filled{grants[0], grants[many/2], grants[many-2]} {
		g, err := w.vault.Grant(t.Context(), f.id)
		if err != nil || g.Reason != "a leak" || g.Order != order.ID || g.DeleteAfter.Before(w.vault.Now().Add(89*24*time.Hour)) {
			t.Fatalf("grant %+v, %v", g, err)
		}
		a, err := w.vault.Account(t.Context(), g.AccountID)
		if err != nil || a.State != tokenstore.StateRevoked || a.AccessToken+a.RefreshToken != "" || a.Revocation == nil || a.Revocation.RefreshToken == "" {
			t.Errorf("account %+v, %v", a, err)
		}
	}
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, one.refresh)); a.oauthError(t) != "invalid_grant" || !strings.Contains(a.body, "operator") || strings.Contains(a.body, "a leak") {
		t.Errorf("refresh after the row was ended: %s", a.body)
	}
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, fresh.refresh)))
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(other, living.refresh)))
	if n, err := w.server.CountGrants(t.Context(), filter); err != nil || n != 1 {
		t.Errorf("dry run afterwards: %d, %v", n, err)
	}
}

func TestOrdersGoOnAfterACrashAndHoldMeanwhile(t *testing.T) {
	t.Parallel()
	const many = 2000
	w, gate := gatedWorld(t)
	b, one := w.session()
	grants := w.fill(many-1, w.grantOf(one.access))
	gate.refuse.Store(true)
	gate.batches.Store(1 + 3) // the count, and three batches
	order := w.revoke(authserver.RevocationFilter{ClientID: b.id})
	waitFor(t, "the work to be cut off", func() bool { active, _ := w.states(b.id); return active < many && gate.batches.Load() == 0 })

	w.reload() // with nothing but the vault
	active, revoked := w.states(b.id)
	if revoked == 0 || active == 0 {
		t.Fatalf("%d active, %d revoked: nothing was cut off", active, revoked)
	}
	if w.works(one.access) {
		t.Error("accepted after the crash")
	}
	for _, g := range grants {
		if !w.server.Ended(t.Context(), g.id) {
			t.Fatalf("grant %s lives after the crash", g.id)
		}
	}
	if o, err := w.server.RevocationOrder(t.Context(), order.ID); err != nil || o.Ended != revoked || !o.Done.IsZero() {
		t.Errorf("the order has ended %+v, %v; want %d", o, err, revoked)
	}
	gate.refuse.Store(false)
	gate.batches.Store(open)
	w.reload() // as the next start
	if o := w.finished(order.ID); o.Ended != many || o.Matched != many {
		t.Errorf("carried out: %+v", o)
	}
	if active, revoked := w.states(b.id); active != 0 || revoked != many {
		t.Errorf("%d active, %d revoked", active, revoked)
	}
}

func TestOrdersAreCarriedOutByTwoAtOnceAndCountedOnce(t *testing.T) {
	t.Parallel()
	const many = 3000
	w, gate := gatedWorld(t)
	b, one := w.session()
	w.fill(many-1, w.grantOf(one.access))
	gate.batches.Store(open)
	order := &tokenstore.RevocationOrder{Meta: tokenstore.Meta{ID: "order"}, Filter: authserver.RevocationFilter{ClientID: b.id}, Reason: "a leak", Created: w.vault.Now()}
	if err := w.vault.Commit(t.Context(), tokenstore.Save(order)); err != nil { // by nobody who goes on
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, s := range []*authserver.Server{w.server, w.node(), w.node()} {
		wg.Go(func() {
			if err := s.CarryOutOrders(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if o := w.finished("order"); o.Ended != many {
		t.Errorf("carried out: %+v", o)
	}
	if active, revoked := w.states(b.id); active != 0 || revoked != many {
		t.Errorf("%d active, %d revoked", active, revoked)
	}
}

func TestGrantsThatChangeOrEndMeanwhileHoldUpNothing(t *testing.T) {
	t.Parallel()
	const many = 600
	w, gate := gatedWorld(t)
	b, one := w.session()
	grants := w.fill(many-1, w.grantOf(one.access))
	var ended, changed []string // by themselves, or in another way
	meanwhile := func() {
		for _, f := range grants {
			g, err := w.vault.Grant(context.Background(), f.id)
			switch {
			case err != nil || g.State != tokenstore.StateActive:
				continue
			case len(ended) == 0:
				ended = append(ended, f.id)
				err = w.vault.Commit(context.Background(), tokenstore.Delete(g))
			case len(ended) < 50:
				ended = append(ended, f.id)
				g.State, g.Reason = tokenstore.StateRevoked, "logged out"
				err = w.vault.Commit(context.Background(), tokenstore.Save(g))
			case len(changed) < 50:
				changed = append(changed, f.id)
				g.Expires = g.Created
				err = w.vault.Commit(context.Background(), tokenstore.Save(g))
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
	gate.before.Store(&meanwhile)
	gate.batches.Store(open)
	order := w.revoke(authserver.RevocationFilter{ClientID: b.id})
	if o := w.finished(order.ID); o.Ended != many-50 || o.Unreadable != 0 || len(ended) != 50 || len(changed) != 50 {
		t.Fatalf("carried out: %+v; %d had ended by themselves", o, len(ended))
	}
	if active, revoked := w.states(b.id); active != 0 || revoked != many-1 {
		t.Errorf("%d active, %d revoked", active, revoked)
	}
	if g, err := w.vault.Grant(t.Context(), ended[1]); err != nil || g.Reason != "logged out" || g.Order != "" {
		t.Errorf("the grant that had ended by itself: %+v, %v", g, err)
	}
}

func TestGrantsThatDoNotOpenAreReportedAndHoldUpNothing(t *testing.T) {
	t.Parallel()
	const many, damaged = 300, 25
	w, gate := gatedWorld(t)
	b, one := w.session()
	grants := w.fill(many, w.grantOf(one.access))
	for _, g := range grants[:damaged] {
		row, err := w.store.Get(t.Context(), tokenstore.KindGrant, g.id)
		if err != nil {
			t.Fatal(err)
		}
		row.Kind, row.Version = tokenstore.KindGrant, row.Version+1 // sealed for the version before
		if err := gate.Store.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpUpdate, Row: row}); err != nil {
			t.Fatal(err)
		}
	}
	gate.batches.Store(open)
	o := w.finished(w.revoke(authserver.RevocationFilter{ClientID: b.id}).ID)
	if o.Ended != many+1-damaged || o.Unreadable != damaged || len(o.UnreadableGrants) != 20 {
		t.Errorf("carried out: %+v", o)
	}
	for _, id := range o.UnreadableGrants {
		if !slices.ContainsFunc(grants[:damaged], func(g filled) bool { return g.id == id }) {
			t.Errorf("%s is called unreadable", id)
		}
	}
}

// A node that was not told yet, or a login that was too late, can store a grant that an order means after all others had ended.
func TestGrantsOfLoginsThatWereUnderWayEndWithTheOrder(t *testing.T) {
	t.Parallel()
	w, gate := gatedWorld(t)
	gate.batches.Store(open)
	b, one := w.session()
	model := w.grantOf(one.access)
	order := w.finished(w.revoke(authserver.RevocationFilter{ClientID: b.id}).ID)
	w.turn(time.Minute)
	late := w.fill(1, model)[0]
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, late.refresh)); a.oauthError(t) != "invalid_grant" || !w.server.Ended(t.Context(), late.id) {
		t.Errorf("the late grant lives: %s", a.body)
	}
	for _, after := range []time.Duration{time.Hour, 2 * time.Hour} {
		w.turn(after)
		if err := w.server.CarryOutOrders(t.Context()); err != nil {
			t.Fatal(err)
		}
		g, err := w.vault.Grant(t.Context(), late.id)
		if err != nil || after > time.Hour != (g.State == tokenstore.StateRevoked) {
			t.Errorf("after %s: %+v, %v", after, g, err)
		}
	}
	if o, err := w.server.RevocationOrder(t.Context(), order.ID); err != nil || o.Ended != 2 || !o.Done.Equal(order.Done) {
		t.Errorf("order %+v, %v; want two ended", o, err)
	}
	// Now the order is history: what would be meant if it were in force, and can come no more, shows it.
	next := w.fill(1, model)[0]
	waitFor(t, "the order to be in force no longer", func() bool { return !w.server.Ended(t.Context(), next.id) })

	if orders, err := w.server.RevocationOrders(t.Context()); err != nil || len(orders) != 1 || orders[0].ID != order.ID {
		t.Errorf("listed: %v, %v", orders, err)
	}
	w.turn(91 * 24 * time.Hour)
	if _, err := w.vault.Sweep(t.Context(), w.vault.Now(), 1000); err != nil {
		t.Fatal(err)
	}
	var refused *authserver.Error
	if _, err := w.server.RevocationOrder(t.Context(), order.ID); !errors.As(err, &refused) || refused.Status != http.StatusNotFound {
		t.Errorf("after its retention: %v", err)
	}
}

func TestOrdersAreListedNewestFirst(t *testing.T) {
	t.Parallel()
	w, gate := gatedWorld(t)
	gate.batches.Store(open)
	var want []string
	for i := range 5 {
		w.turn(time.Second)
		want = append([]string{w.revoke(authserver.RevocationFilter{UserID: fmt.Sprintf("user-%d", i)}).ID}, want...)
	}
	orders, err := w.server.RevocationOrders(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range orders {
		got = append(got, o.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
}

// Tokens in memory alone end with their grants, and the provider is told of them.
func TestOrdersEndTheTokensThatAreInMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Unstored = true
	provider, err := upstream.New("idp", w.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.reload(func(o *authserver.Options) {
		o.Accounts = upstream.NewAccounts(upstream.AccountsOptions{Vault: w.vault, Providers: map[string]*upstream.Provider{"idp": provider}, Logger: zap.NewNop()})
		o.Proxies = []*authserver.Proxy{proxy(t, "a", w.url+"/mcp/a", provider)}
	})
	w.session()
	w.session()
	if o := w.finished(w.revoke(authserver.RevocationFilter{All: true}).ID); o.Ended != 2 {
		t.Fatalf("%+v", o)
	}
	w.turn(2 * time.Minute)
	if err := w.options.Accounts.RetryRevocations(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.provider.mu.Lock()
	defer w.provider.mu.Unlock()
	if told := slices.Sorted(slices.Values(w.provider.revoked)); !slices.Equal(told, []string{"up-access-1", "up-access-2", "up-refresh-1", "up-refresh-2"}) {
		t.Errorf("the provider was told of %v", told)
	}
}

func TestOrdersSayWhatIsWrongWithThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	long := strings.Repeat("x", 501)
	for name, c := range map[string]struct {
		filter authserver.RevocationFilter
		reason string
		want   string
	}{
		"empty":          {want: "the filter is empty"},
		"all and more":   {filter: authserver.RevocationFilter{All: true, Proxy: "a"}, want: "all stands alone"},
		"space":          {filter: authserver.RevocationFilter{UserID: "a b"}, want: `user_id "a b"`},
		"long":           {filter: authserver.RevocationFilter{ClientID: long}, want: "client_id"},
		"line in reason": {filter: authserver.RevocationFilter{All: true}, reason: "a\nb", want: "reason must be"},
		"long reason":    {filter: authserver.RevocationFilter{All: true}, reason: long, want: "reason must be"},
	} {
		_, err := w.server.RevokeGrants(t.Context(), c.filter, "ann", c.reason)
		var refused *authserver.Error
		if !errors.As(err, &refused) || refused.Code != "invalid_request" || !strings.Contains(refused.Description, c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
		if c.reason != "" {
			continue
		}
		if _, err := w.server.CountGrants(t.Context(), c.filter); !errors.As(err, &refused) || !strings.Contains(refused.Description, c.want) {
			t.Errorf("dry run of %s: %v; want %q", name, err, c.want)
		}
	}
	if orders, err := w.server.RevocationOrders(t.Context()); err != nil || len(orders) != 0 {
		t.Errorf("orders are left of it: %v, %v", orders, err)
	}
	for name, c := range map[string]struct {
		filter authserver.RevocationFilter
		want   string // of the warning
	}{
		"unknown proxy":    {authserver.RevocationFilter{Proxy: "gone"}, `proxy "gone" is not in the running configuration`},
		"unknown provider": {authserver.RevocationFilter{Provider: "gone"}, `provider "gone" is not in use`},
		"proxy":            {authserver.RevocationFilter{Proxy: "a"}, `session tokens of provider "idp" are good at proxy "a" too`},
		"all":              {authserver.RevocationFilter{All: true}, "API keys stay"},
		"provider":         {authserver.RevocationFilter{Provider: "idp"}, ""},
		"user":             {authserver.RevocationFilter{UserID: "u"}, ""},
	} {
		o := w.revoke(c.filter)
		if got := strings.Join(o.Warnings, "; "); !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: warnings %q; want %q", name, got, c.want)
		}
	}
}
