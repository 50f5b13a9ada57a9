package authserver

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestT21DocumentsInUseStayHoweverManyOthersThereAre(t *testing.T) {
	t.Parallel()
	now := time.Now()
	d := newDocuments(Documents{}, false, func() time.Time { return now }, func(context.Context, string) bool { return false })
	c := &tokenstore.Client{Meta: tokenstore.Meta{ID: "https://bot.test/client.json"}, JWKSURI: "https://bot.test/keys.json"}
	document, keys := wanted{url: c.ID, limit: maxDocument}.key(), wanted{url: c.JWKSURI, limit: maxKeySet}.key()
	for _, key := range []string{document, keys, "never used"} {
		d.seen.put(key, fetched{c, now.Add(time.Hour)})
	}
	d.keep(c)
	for i := range 2 * maxDocuments {
		d.seen.put(strconv.Itoa(i), fetched{c, now})
		d.failed.put(strconv.Itoa(i), failure{errors.New("none"), now})
	}
	for key, want := range map[string]bool{document: true, keys: true, "never used": false} {
		if _, known, err := d.lookup(key, now); known != want || err != nil {
			t.Errorf("%s is kept: %v, %v", key, known, err)
		}
	}
	for name, n := range map[string][2]int{
		"seen": {len(d.seen.entries), d.seen.order.Len()}, "failed": {len(d.failed.entries), d.failed.order.Len()},
	} {
		if n != [2]int{maxDocuments, maxDocuments} {
			t.Errorf("%s: %v entries, want %d", name, n, maxDocuments)
		}
	}
	if n := len(d.used.entries); n != 2 {
		t.Errorf("%d in use, want 2", n)
	}
}

func TestHostHasOneSpelling(t *testing.T) {
	t.Parallel()
	for spelled, want := range map[string]string{
		"https://claude.ai/x":               "claude.ai",
		"https://Claude.AI/x":               "claude.ai",
		"https://claude.ai./x":              "claude.ai",
		"https://claude.ai:/x":              "claude.ai",
		"https://claude.ai:443/x":           "claude.ai",
		"https://claude.ai:0443/x":          "claude.ai",
		"https://claude.ai:08443/x":         "claude.ai:8443",
		"https://127.0.0.1:8443/x":          "127.0.0.1:8443",
		"https://[::1]:8443/x":              "[::1]:8443",
		"https://[0:0:0:0:0:0:0:1]/x":       "[::1]",
		"https://[::FFFF:192.0.2.1]:8443/x": "192.0.2.1:8443",
	} {
		u, err := url.Parse(spelled)
		if err != nil {
			t.Fatal(err)
		}
		if got := canonicalHost(u); got != want {
			t.Errorf("%s: %s, want %s", spelled, got, want)
		}
	}
}
