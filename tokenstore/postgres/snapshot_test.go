package postgres

import (
	"errors"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestNobodyWaitsForASnapshotHoweverFewConnectionsThereAre(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Connection: testpg.Database(t), MaxConns: 1, Wait: 10 * time.Second})
	row := tokenstore.Row{Kind: tokenstore.KindClient, ID: "c", Sealed: []byte("x")}
	if err := s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpInsert, Row: row}); err != nil {
		t.Fatal(err)
	}
	visited := 0
	err := s.Snapshot(t.Context(), func(tokenstore.Row) error {
		visited++
		_, read := s.Get(t.Context(), tokenstore.KindClient, "c")
		other := row
		other.ID = "of-later"
		return errors.Join(read, s.Apply(t.Context(), tokenstore.Change{Op: tokenstore.OpInsert, Row: other}))
	})
	if err != nil || visited != 1 {
		t.Errorf("%d rows, %v", visited, err)
	}
}
