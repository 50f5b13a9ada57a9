//go:build slow && !race

package postgres_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

var (
	users      = flag.Int("users", 10_000, "users in the vault of TestSlowWhatUsersTake")
	refreshed  = flag.Int("refreshed", 1000, "users in the vault of TestSlowWhatRefreshesTake")
	fillfactor = flag.Int("fillfactor", 0, "of the table of rows in TestSlowWhatRefreshesTake, where it is to be another one")
)

// tokens are two kinds of upstream tokens, by their length in bytes.
var tokens = map[string]int{"opaque tokens of 40 bytes": 40, "tokens of 1500 bytes, as JWTs are": 1500}

// TestSlowWhatUsersTake prints what users take of a database. docs/scaling.md has its figures, and those of the next. They fail only where something is out
// of all proportion.
func TestSlowWhatUsersTake(t *testing.T) { //nolint:paralleltest // it measures
	for name, token := range tokens {
		t.Run(name, func(t *testing.T) {
			m := newMeasured(t, token)
			m.fill(*users)
			m.vacuum()
			rows, refs := m.bytes("rows"), m.bytes("refs")
			t.Logf("%d users: %d bytes each; rows %d (of them indexes %d, out of line %d), refs %d (of them index %d)", *users, (rows+refs)/m.n(), rows/m.n(),
				m.number("SELECT pg_indexes_size('oauth_proxy.rows')")/m.n(), m.toast("rows")/m.n(), refs/m.n(), m.number("SELECT pg_indexes_size('oauth_proxy.refs')")/m.n())
			if (rows+refs)/m.n() > 16<<10 {
				t.Errorf("a user takes %d bytes", (rows+refs)/m.n())
			}
		})
	}
}

// TestSlowWhatRefreshesTake prints what it costs the tables and the write-ahead log that tokens are refreshed.
func TestSlowWhatRefreshesTake(t *testing.T) { //nolint:paralleltest // it measures
	for name, token := range tokens {
		t.Run(name, func(t *testing.T) {
			m := newMeasured(t, token)
			if *fillfactor > 0 {
				m.exec(fmt.Sprintf("ALTER TABLE oauth_proxy.rows SET (fillfactor = %d)", *fillfactor))
			}
			m.fill(*refreshed)
			m.vacuum()
			rows, refs := m.bytes("rows"), m.bytes("refs")
			works := []struct {
				what    string
				do      func(i int)
				updates int64 // of the user's rows
			}{
				{"an upstream token refreshed", m.refreshUpstream, 2},
				{"a gateway token refreshed", m.refreshGrant, 1},
			}
			for _, work := range works {
				wal, hot := m.wal(), m.hot
				m.each(work.do)
				wal = m.wal() - wal
				m.count(work.updates * m.n())
				t.Logf("%s, once for each user: %d bytes of log, %d updates of rows, %.0f %% of them HOT", work.what, wal/m.n(), work.updates, 100*float64(m.hot-hot)/float64(work.updates*m.n()))
				m.vacuum()
			}
			for _, work := range works {
				t.Logf("%s, each the first after a checkpoint, when whole pages go to the log: %d bytes of log", work.what, m.afterCheckpoints(work.do))
			}
			// With a vacuum in between, as a day has many.
			for range 5 {
				m.each(m.refreshUpstream)
				m.vacuum()
				m.each(m.refreshGrant)
				m.vacuum()
			}
			grown := float64(m.bytes("rows")) / float64(rows)
			t.Logf("after six of each, vacuumed in between, rows take %.2f times what they took, refs %.2f times", grown, float64(m.bytes("refs"))/float64(refs))
			if grown > 4 {
				t.Error("what updates leave is not used again")
			}

			wal := m.wal()
			m.each(m.event)
			if err := m.vault.FlushAudit(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("an event of the audit trail: %d bytes of log until it is chained, and then %d in its segment", (m.wal()-wal)/m.n(),
				m.number("SELECT sum(pg_column_size(sealed)) FROM oauth_proxy.rows WHERE kind = 'audit_segment'")/m.n())
		})
	}
}

// measured is a vault in a database of its own, and a connection that looks at it.
type measured struct {
	t        *testing.T
	vault    *tokenstore.Vault
	db       *pgx.Conn
	token    int
	grants   []*tokenstore.Grant
	accounts []*tokenstore.Account

	updated, hot int64 // updates of rows so far, and those among them that wrote no index
}

func newMeasured(t *testing.T, token int) *measured {
	connection := testpg.Database(t)
	db, err := pgx.Connect(t.Context(), testpg.Shared(t).Admin(t, connection))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	// What is written is the same without waiting for the disk.
	if _, err := db.Exec(t.Context(), "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$"); err != nil {
		t.Fatal(err)
	}
	s, err := postgres.Open(t.Context(), postgres.Options{Connection: connection, Wait: time.Minute}) // on a machine that is busy with other things
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	v, err := tokenstore.Open(t.Context(), s, tokenstore.Options{Keys: []tokenstore.RootKey{tokenstore.NewRootKey()}})
	if err != nil {
		t.Fatal(err)
	}
	return &measured{t: t, vault: v, db: db, token: token}
}

func (m *measured) n() int64 { return int64(len(m.grants)) }

// fill stores so many users, each with a grant and its account, as a login makes them.
func (m *measured) fill(n int) {
	const batch = 250
	now := m.vault.Now()
	writes := make([]tokenstore.Write, 0, 2*batch)
	for i := range n {
		at := now.Add(-time.Duration(i) * time.Second)
		user, account := m.vault.Derive("user", fmt.Sprint(i)), tokenstore.NewID(at)
		g := &tokenstore.Grant{
			Meta: tokenstore.Meta{ID: tokenstore.NewID(at), DeleteAfter: at.AddDate(0, 0, 120)}, State: tokenstore.StateActive,
			ClientID: fmt.Sprintf("gateway_%016x", i%1000), Client: fmt.Sprintf("Chatbot %d", i%1000), Proxy: "github", Resource: "https://gateway.example.com/github/mcp", Scopes: []string{"mcp"},
			UserID: user, AccountID: account, Provider: "github", RedirectURI: "https://chatbot.example.com/oauth/callback",
			User: tokenstore.User{Provider: "okta", Issuer: "https://acme.okta.com", Subject: fmt.Sprintf("00u%017d", i), Name: fmt.Sprintf("Ada Lovelace%d", i),
				Login: fmt.Sprintf("ada%d", i), Email: fmt.Sprintf("ada.lovelace%d@branch%d.example.com", i, i%40), EmailVerified: true},
			Created: at, Agreed: at, Expires: at.AddDate(0, 0, 30), Ends: at.AddDate(0, 0, 90), Used: at,
			Family: tokenstore.RefreshFamily{Generation: 3, Current: m.vault.Hash("refresh", fmt.Sprint(i)), Rotated: at, JTI: tokenstore.NewID(at)},
		}
		a := &tokenstore.Account{
			Meta: tokenstore.Meta{ID: account, DeleteAfter: at.AddDate(0, 0, 180)}, State: tokenstore.StateActive, Provider: "github", UserID: user,
			Identity: "github https://github.com", OwnerID: m.vault.Derive("owner", fmt.Sprint(i)), AccessToken: m.newToken(), RefreshToken: "ghr_" + rand.Text() + rand.Text(),
			TokenType: "bearer", Scopes: []string{"repo", "read:org"}, Obtained: at, Expires: at.Add(8 * time.Hour),
		}
		m.grants, m.accounts = append(m.grants, g), append(m.accounts, a)
		if writes = append(writes, tokenstore.Save(g), tokenstore.Save(a)); len(writes) == cap(writes) || i == n-1 {
			m.commit(writes...)
			writes = writes[:0]
		}
	}
}

func (m *measured) newToken() string {
	raw := make([]byte, m.token*3/4)
	_, _ = rand.Read(raw) // never fails
	return base64.RawURLEncoding.EncodeToString(raw)
}

func (m *measured) commit(writes ...tokenstore.Write) {
	if err := m.vault.Commit(context.Background(), writes...); err != nil {
		m.t.Error(err)
	}
}

// each does something for each user, for a few at once.
func (m *measured) each(do func(i int)) {
	var workers sync.WaitGroup
	const parallel = 4
	for w := range parallel {
		workers.Go(func() {
			for i := w; i < len(m.grants); i += parallel {
				do(i)
			}
		})
	}
	workers.Wait()
}

// refreshUpstream takes the account's lease, and stores new tokens.
func (m *measured) refreshUpstream(i int) {
	a, now := m.accounts[i], m.vault.Now()
	a.State, a.Lease = tokenstore.StateRefreshing, tokenstore.Lease{Owner: rand.Text(), Until: now.Add(10 * time.Second)}
	m.commit(tokenstore.Save(a))
	a.State, a.Lease, a.AccessToken, a.RefreshToken = tokenstore.StateActive, tokenstore.Lease{}, m.newToken(), "ghr_"+rand.Text()+rand.Text()
	a.Obtained, a.Expires = now, now.Add(8*time.Hour)
	m.commit(tokenstore.Save(a))
}

// refreshGrant rotates the grant's refresh token.
func (m *measured) refreshGrant(i int) {
	g, now := m.grants[i], m.vault.Now()
	g.Family.Generation++
	g.Family.Replaced = []time.Time{now}
	g.Family.Current, g.Family.Rotated, g.Family.JTI = m.vault.Hash("refresh", rand.Text()), now, tokenstore.NewID(now)
	g.Expires, g.DeleteAfter, g.Used = now.AddDate(0, 0, 30), now.AddDate(0, 0, 120), now
	m.commit(tokenstore.Save(g))
}

// afterCheckpoints does something for a few users, each right after a checkpoint, and returns the bytes of log that each takes.
func (m *measured) afterCheckpoints(do func(i int)) (wal int64) {
	const sample = 10
	for i := range sample {
		m.exec("CHECKPOINT")
		before := m.wal()
		do(i * len(m.grants) / sample)
		wal += m.wal() - before
	}
	return wal / sample
}

// event records that the grant's client was given a token.
func (m *measured) event(i int) {
	g := m.grants[i]
	ctx := tokenstore.WithAddress(tokenstore.WithActor(context.Background(), tokenstore.Actor{Kind: tokenstore.ActorClient, ID: g.ClientID, Label: g.Client}), "192.0.2.1")
	e := m.vault.NewEvent(ctx, tokenstore.EventTokenIssued)
	e.Proxy, e.Provider, e.Grant, e.ClientID, e.Client, e.UserID, e.User, e.JTI = g.Proxy, g.Provider, g.ID, g.ClientID, g.Client, g.UserID, g.User.Label(), g.Family.JTI
	m.commit(tokenstore.RecordEvent(e))
}

func (m *measured) number(query string) (n int64) {
	if err := m.db.QueryRow(context.Background(), query).Scan(&n); err != nil {
		m.t.Fatalf("%s: %v", query, err)
	}
	return n
}

// bytes is what a table takes, with its indexes and what lies out of line.
func (m *measured) bytes(table string) int64 {
	return m.number("SELECT pg_total_relation_size('oauth_proxy." + table + "')")
}

func (m *measured) toast(table string) int64 {
	return m.number("SELECT pg_total_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'oauth_proxy." + table + "'::regclass")
}

func (m *measured) wal() int64 {
	return m.number("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
}

// count waits until the connections have told of so many more updates of rows, which idle ones do after ten seconds.
func (m *measured) count(updates int64) {
	m.updated += updates
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		told := m.number("SELECT n_tup_upd FROM pg_stat_user_tables WHERE schemaname = 'oauth_proxy' AND relname = 'rows'")
		if told >= m.updated {
			break
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%d updates were told of, want %d", told, m.updated)
		}
	}
	m.hot = m.number("SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = 'oauth_proxy' AND relname = 'rows'")
}

func (m *measured) vacuum() { m.exec("VACUUM (ANALYZE) oauth_proxy.rows, oauth_proxy.refs") }

func (m *measured) exec(sql string) {
	if _, err := m.db.Exec(context.Background(), sql); err != nil {
		m.t.Fatalf("%s: %v", sql, err)
	}
}
