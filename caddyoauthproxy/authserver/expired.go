package authserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// duePage is how many grants are looked at together.
	duePage = 1000

	// dueBatch is how many of them are saved together.
	dueBatch = 100

	// endingAtOnce is how many grants that have expired are ended at the same time, so that their commits share the syncs of the disk.
	endingAtOnce = 32

	// endAnyway is how many grants may be ended together however few there are.
	endAnyway = 10
)

// ErrManyExpired says that more than a tenth of all grants that live have expired together while nobody watched the clock, and that only so many were ended: it may have been
// set wrong, or the gateway was off for long.
var ErrManyExpired = errors.New("more than a tenth of all grants have expired together, and a tenth was ended: is the clock right?")

// turnHealth saves the grants whose health has turned with time, so that they are found by what it is now.
func (s *Server) turnHealth(ctx context.Context) error {
	for {
		grants, err := s.vault.DueGrants(ctx, duePage)
		switch {
		case errors.Is(err, tokenstore.ErrTampered):
			s.log.Error("grants that do not open are found by what they were before", zap.Error(err))
		case err != nil:
			return fmt.Errorf("grants that are due: %w", err)
		}
		turned, err := s.saveGrants(ctx, grants)
		if err != nil {
			return fmt.Errorf("grants that are due: %w", err)
		}
		if turned == 0 { // those that do not open, or that somebody else is about, stay due
			return nil
		}
	}
}

// saveGrants saves grants where nobody else has changed them meanwhile, and returns how many those are.
func (s *Server) saveGrants(ctx context.Context, grants []*tokenstore.Grant) (saved int, err error) {
	for len(grants) > 0 {
		batch := grants[:min(dueBatch, len(grants))]
		grants = grants[len(batch):]
		writes := make([]tokenstore.Write, 0, len(batch))
		for _, g := range batch {
			writes = append(writes, tokenstore.Save(g))
		}
		err := s.vault.Commit(ctx, writes...)
		if err == nil {
			saved += len(batch)
			continue
		}
		if !errors.Is(err, tokenstore.ErrConflict) {
			return saved, err
		}
		for _, write := range writes { // one that somebody else has changed keeps no other from being saved
			err := s.vault.Commit(ctx, write)
			switch {
			case err == nil:
				saved++
			case !errors.Is(err, tokenstore.ErrConflict):
				return saved, err
			}
		}
	}
	return saved, nil
}

// EndExpired ends the grants that have expired a while ago, so that no upstream token outlives what it was given for, and returns how many. Their providers are
// told one after the other, by Accounts.RetryRevocations. It is to be called before each clean-up. A grant that cannot be ended keeps no other from it. The error is, or wraps,
// ErrManyExpired where it ended only some because they are too many.
func (s *Server) EndExpired(ctx context.Context) (ended int, failed error) {
	if err := s.turnHealth(ctx); err != nil {
		return 0, err
	}
	room, err := s.mayEnd(ctx)
	if err != nil {
		return 0, err
	}
	now := s.vault.Now()
	limit, watched := now.Add(-tidyAfter), s.clock.since(now)
	for after := ""; ; {
		grants, next, err := s.vault.ExpiredGrants(ctx, limit, after, duePage)
		if err != nil {
			return ended, fmt.Errorf("expired grants: %w", err)
		}
		many := false
		grants = slices.DeleteFunc(grants, func(g *tokenstore.Grant) bool {
			if g.Family.Generation == 0 || g.Expires.After(watched) { // a login that nobody has finished, or in its own time: of these there may be any number
				return false
			}
			room--
			many = room < 0
			return many
		})
		n, err := s.endAll(ctx, grants, limit)
		ended += n
		if ctx.Err() != nil {
			return ended, ctx.Err()
		}
		if err != nil {
			failed = err
		}
		if many {
			return ended, errors.Join(ErrManyExpired, failed)
		}
		if after = next; after == "" {
			return ended, failed
		}
	}
}

// mayEnd returns how many grants may be ended together.
func (s *Server) mayEnd(ctx context.Context) (int, error) {
	living := 0
	for _, health := range tokenstore.Healths() {
		if health == tokenstore.HealthRevoked {
			continue
		}
		n, err := s.vault.CountGrants(ctx, health)
		if err != nil {
			return 0, fmt.Errorf("grants that live: %w", err)
		}
		living += n
	}
	return max(endAnyway, living/10), nil
}

// endAll ends grants that expired before a time, some at a time, and returns how many it has ended, and an error of the others.
func (s *Server) endAll(ctx context.Context, grants []*tokenstore.Grant, limit time.Time) (ended int, failed error) {
	var all sync.WaitGroup
	var mu sync.Mutex
	free := make(chan struct{}, endingAtOnce)
	for _, g := range grants {
		free <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		all.Go(func() {
			defer func() { <-free }()
			grant, _, err := s.revokeGrant(ctx, g.ID, reasonExpired, func(g *tokenstore.Grant) bool { return g.Expires.Before(limit) })
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
			} else if grant != nil {
				ended++
			}
		})
	}
	all.Wait()
	return ended, failed
}
