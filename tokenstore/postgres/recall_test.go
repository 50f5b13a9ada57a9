package postgres

import (
	"errors"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A node that nothing is told of changes has read that a row is gone, or is one that does not open. While the database is gone it does not go back to the row before.
func TestRowThatWasReadAsGoneIsNotRememberedAsItWas(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	for name, c := range map[string]struct {
		change tokenstore.Change
		want   error
	}{
		"deleted":                        {tokenstore.Change{Op: tokenstore.OpDelete, Row: grantRow("a", 1)}, tokenstore.ErrNotFound},
		"does not open":                  {updateGrant("a", 2), refused},
		"cannot be opened at the moment": {updateGrant("a", 2), tokenstore.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connection := testpg.Database(t)
			s := openStore(t, Options{Connection: connection, ListenOff: true, MaxStale: time.Hour})
			other := openStore(t, Options{Connection: connection})
			mustApply(t, other, insertGrant("a"))
			open := func(row tokenstore.Row) (any, int, error) {
				if row.Version > 1 {
					return nil, 0, c.want
				}
				return row.Version, 8, nil
			}
			asked := time.Now()
			s.listener = &listener{listens: true} // one that has lost its connection
			s.listener.asked.Store(&asked)
			if got, err := s.Recall(t.Context(), tokenstore.KindGrant, "a", open); err != nil || got != uint64(1) {
				t.Fatalf("Recall = version %v, %v; want 1", got, err)
			}
			mustApply(t, other, c.change)
			if got, err := s.Recall(t.Context(), tokenstore.KindGrant, "a", open); !errors.Is(err, c.want) {
				t.Fatalf("Recall = version %v, %v; want %v", got, err, c.want)
			}
			s.outage.away.Store(true)
			defer s.outage.away.Store(false)
			if got, ok := s.stale(grantKey("a")); ok {
				t.Errorf("while the database is gone the row is in version %v", got)
			}
		})
	}
}
