package authserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// usedAfter is how long the last use of a grant is left as it is: a write for every request would be one too many.
	usedAfter = time.Hour

	// maxUses bounds how many uses wait to be written down. Others are noted with a later request.
	maxUses = 100_000
)

// uses are those of grants that wait to be written down. To note one takes neither a write nor a lock.
type uses struct {
	waiting sync.Map // grant's id → time of the use
	count   atomic.Int64
}

// note notes that a grant is in use, once an hour.
func (u *uses) note(g *tokenstore.Grant, now time.Time) {
	if now.Before(g.Used.Add(usedAfter)) {
		return
	}
	if _, noted := u.waiting.Load(g.ID); noted || u.count.Load() >= maxUses {
		return
	}
	id := strings.Clone(g.ID) // which is a part of all of the grant's text
	if _, noted := u.waiting.LoadOrStore(id, now); !noted {
		u.count.Add(1)
	}
}

// take takes out what waits.
func (u *uses) take() map[string]time.Time {
	taken := make(map[string]time.Time)
	for id := range u.waiting.Range {
		if used, ok := u.waiting.LoadAndDelete(id); ok {
			u.count.Add(-1)
			taken[id.(string)] = used.(time.Time)
		}
	}
	return taken
}

// WriteUses writes down which grants were used since the last time. Maintain and Close do. What cannot be written, because the vault fails or somebody else
// changes the grant, is noted again with its next use.
func (s *Server) WriteUses(ctx context.Context) error {
	var used []*tokenstore.Grant
	for id, at := range s.uses.take() {
		g, err := s.vault.Grant(ctx, id)
		switch {
		case errors.Is(err, tokenstore.ErrNotFound), errors.Is(err, tokenstore.ErrTampered):
			continue
		case err != nil:
			return fmt.Errorf("last use of grants: %w", err)
		case g.State != tokenstore.StateActive || at.Before(g.Used.Add(usedAfter)): // another node was faster
			continue
		}
		g.Used = at
		if used = append(used, g); len(used) == dueBatch {
			if _, err := s.saveGrants(ctx, used); err != nil {
				return fmt.Errorf("last use of grants: %w", err)
			}
			used = nil
		}
	}
	if _, err := s.saveGrants(ctx, used); err != nil {
		return fmt.Errorf("last use of grants: %w", err)
	}
	return nil
}
