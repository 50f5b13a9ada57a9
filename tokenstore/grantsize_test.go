package tokenstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// typicalGrant is one of a user in ten, whose name and address are as long as most are.
func typicalGrant(v *tokenstore.Vault, i int) *tokenstore.Grant {
	user, at := i/10, now.Add(time.Duration(i)*time.Second)
	return &tokenstore.Grant{
		Meta: tokenstore.Meta{ID: tokenstore.NewID(at), DeleteAfter: at.AddDate(0, 6, 0)}, State: tokenstore.StateActive,
		ClientID: fmt.Sprint("client-", user%1000), Client: fmt.Sprintf("Chatbot %d", user%1000), Proxy: "github", Resource: "https://mcp.example.com/github", Scopes: []string{"mcp"},
		UserID: v.Derive("user", fmt.Sprint(user)), AccountID: tokenstore.NewID(at), Provider: "github",
		User: tokenstore.User{Provider: "okta", Issuer: "https://okta.example.com", Subject: fmt.Sprint(user), Name: fmt.Sprintf("Ada Lovelace%d", user), Login: fmt.Sprintf("ada%d", user),
			Email: fmt.Sprintf("ada.lovelace%d@branch%d.example.com", user, user%40), EmailVerified: true},
		Created: at, Agreed: at, Expires: at.AddDate(0, 0, 30), Ends: at.AddDate(0, 0, 90), Used: at,
		Family: tokenstore.RefreshFamily{Generation: 3, Current: v.Hash("refresh", fmt.Sprint(i)), Rotated: at, JTI: tokenstore.NewID(at)},
	}
}

// A vault of a million grants has a million times this, and cleaning it up writes each of the index entries.
func TestGrantTakesLittleRoomInTheStore(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	v := openVault(t, s, tokenstore.NewRootKey())
	g := typicalGrant(v, 1234)
	commit(t, v, tokenstore.Save(g))
	row, err := s.Get(t.Context(), tokenstore.KindGrant, g.ID)
	if err != nil {
		t.Fatal(err)
	}
	size := len(row.Sealed)
	for _, ref := range row.Refs {
		size += len(ref)
	}
	if size > 1600 || len(row.Refs) > 18 {
		t.Errorf("a grant has %d references, and takes %d bytes: %q", len(row.Refs), size, row.Refs)
	}
}

// BenchmarkStoreGrants stores grants, ten in a commit, and reports what each takes of the file, and how fast they are deleted again.
func BenchmarkStoreGrants(b *testing.B) {
	path := filepath.Join(b.TempDir(), "vault.db")
	s := openFile(b, path)
	v := openVault(b, s, tokenstore.NewRootKey())
	n := 0
	for b.Loop() {
		writes := make([]tokenstore.Write, 0, 10)
		for range cap(writes) {
			writes = append(writes, tokenstore.Save(typicalGrant(v, n)))
			n++
		}
		commit(b, v, writes...)
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if swept, err := v.Sweep(b.Context(), now.AddDate(100, 0, 0), n); err != nil || swept != n {
		b.Fatalf("%d of %d grants were deleted, %v", swept, n, err)
	}
	b.ReportMetric(float64(info.Size())/float64(n), "B/grant")
	b.ReportMetric(float64(n)/time.Since(start).Seconds(), "deleted/s")
}
