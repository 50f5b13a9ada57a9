package authserver

import (
	"context"
	"errors"
	"fmt"
)

// Maintain does what is due from time to time: it is to be called every minute. What fails keeps nothing else from being done.
func (s *Server) Maintain(ctx context.Context) error {
	var failed []error
	if err := s.keys.maintain(ctx); err != nil {
		failed = append(failed, fmt.Errorf("signing keys: %w", err))
	}
	failed = append(failed, s.indexGrants(ctx), s.turnHealth(ctx), s.WriteUses(ctx))
	return errors.Join(failed...)
}
