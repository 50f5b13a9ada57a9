package postgres

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/memory"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/watch"
)

// FuzzNotified hears notifications that anybody can make who may connect to the database.
func FuzzNotified(f *testing.F) {
	for _, payload := range []string{"grant a", "grant", "grant ", " ", "", ":self", ":", "nothing x", "grant a b", "account \x00", strings.Repeat("x", 8000)} {
		f.Add("oauth_proxy", payload)
	}
	f.Add("other", "grant a")
	f.Fuzz(func(t *testing.T, channel, payload string) {
		over := make(chan struct{})
		defer close(over)
		l := &listener{channel: "oauth_proxy", self: ":self", memory: memory.New(), watchers: watch.New(over)}
		l.notified(&pgconn.Notification{Channel: channel, Payload: payload})
		if l.heard != (channel == "oauth_proxy" && payload == ":self") {
			t.Errorf("%q %q is heard as one to oneself: %t", channel, payload, l.heard)
		}
	})
}

// FuzzStoredTexts takes apart what a row of the database may hold that others have written.
func FuzzStoredTexts(f *testing.F) {
	f.Add("grant", "a b")
	f.Add("\x00", "\x7f")
	f.Add("é", "x")
	f.Fuzz(func(t *testing.T, kind, id string) {
		if key(id) && (strings.ContainsAny(id, " \x00\n") || id == "" || len(id) > tokenstore.MaxKey) {
			t.Errorf("%q is a key", id)
		}
		if a := after(id); strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r > 0x7f }) {
			t.Errorf("%q comes after %q", a, id)
		}
		if checkSchema(kind) == nil && strings.Contains(quote(kind), "$$") {
			t.Errorf("the schema %q", kind)
		}
	})
}
