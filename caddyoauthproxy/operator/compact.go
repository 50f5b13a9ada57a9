package operator

import (
	"context"
	"net/http"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Compaction is what compacting the vault's file has come to: its size before and after, in bytes.
type Compaction struct {
	Before int64 `json:"before"`
	After  int64 `json:"after"`
}

// compact is POST /compact.
func (s *Server) compact(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := atEndpoint(r); err != nil {
		return nil, err
	}
	return nil, s.work(w, r, func(ctx context.Context, tell func(tokenstore.Progress)) (any, error) {
		return s.options.Compact(ctx, tell)
	})
}
