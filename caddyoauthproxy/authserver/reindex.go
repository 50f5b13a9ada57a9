package authserver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// indexJob is the name of the job that indexes what older releases have saved. Another index would be another job.
const indexJob = "index-grants-1"

// indexGrants saves the grants of releases that knew nothing of health anew, once for each vault, so that they are found as all others.
func (s *Server) indexGrants(ctx context.Context) error {
	if s.indexed.Load() {
		return nil
	}
	const never = time.Duration(math.MaxInt64)
	ran, err := s.vault.RunJob(ctx, indexJob, never, func(ctx context.Context) error {
		for {
			missed, err := s.indexOnce(ctx)
			if err != nil || missed == 0 {
				return err
			}
		}
	})
	if err != nil {
		return fmt.Errorf("index of grants: %w", err)
	}
	if ran {
		s.indexed.Store(true)
	}
	return nil
}

// indexOnce goes through all grants, and returns how many of those that are not indexed somebody else has saved meanwhile, as they were.
func (s *Server) indexOnce(ctx context.Context) (missed int, err error) {
	for after := ""; ; {
		grants, next, err := s.vault.UnindexedGrants(ctx, after, duePage)
		if err != nil {
			return missed, err
		}
		for _, g := range grants {
			if err := s.completeGrant(ctx, g); err != nil {
				return missed, err
			}
		}
		saved, err := s.saveGrants(ctx, grants)
		if err != nil {
			return missed, err
		}
		missed += len(grants) - saved
		if after = next; after == "" {
			return missed, nil
		}
	}
}

// completeGrant adds what older releases did not keep with a grant.
func (s *Server) completeGrant(ctx context.Context, g *tokenstore.Grant) error {
	if g.AccountID == "" {
		return nil
	}
	account, err := s.vault.Account(ctx, g.AccountID)
	switch {
	case errors.Is(err, tokenstore.ErrNotFound), errors.Is(err, tokenstore.ErrTampered):
		return nil
	case err != nil:
		return err
	}
	g.Provider = account.Provider
	switch {
	case g.State != tokenstore.StateActive:
	case account.State == tokenstore.StateNeedsReauth:
		g.Broken = account.Reason
	case !account.Unstored: // whether there is a token to renew it with is in the memory of another process
		g.UpstreamEnds = s.accounts.Ends(account)
	}
	return nil
}
