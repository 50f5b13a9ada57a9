package operator

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Work is a line of the answer to what takes long: how far it is, or how it ended. Of the last line, and of no other, either Error or Result is set; without that line the answer
// is not whole.
type Work struct {
	Progress *tokenstore.Progress `json:"progress,omitempty"`
	Result   json.RawMessage      `json:"result,omitempty"`
	Error    string               `json:"error,omitempty"`
}

// workInterval is how often it is said at most how far work is.
const workInterval = 250 * time.Millisecond

// work answers with lines of Work, for as long as do takes, which ends early when the caller leaves. What do refuses before it has told of any progress is refused as everywhere.
func (s *Server) work(w http.ResponseWriter, r *http.Request, do func(ctx context.Context, tell func(tokenstore.Progress)) (any, error)) error {
	lines := &workLines{w: w}
	result, err := do(r.Context(), lines.tell)
	lines.mu.Lock()
	defer lines.mu.Unlock()
	if err != nil && lines.said.IsZero() {
		return err
	}
	var last Work
	if err == nil {
		last.Result, err = json.Marshal(result)
	}
	if err != nil {
		last = Work{Error: s.explain(r, err).Description}
	}
	lines.write(last)
	return nil
}

// workLines is an answer of lines.
type workLines struct {
	mu   sync.Mutex
	w    http.ResponseWriter
	said time.Time
}

func (l *workLines) tell(p tokenstore.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.said) >= workInterval {
		l.write(Work{Progress: &p})
	}
}

// write writes a line, for a holder of the lock.
func (l *workLines) write(line Work) {
	if l.said.IsZero() {
		setHeaders(l.w, "application/x-ndjson")
	}
	l.said = time.Now()
	if json.NewEncoder(l.w).Encode(line) == nil {
		_ = http.NewResponseController(l.w).Flush() // without it, lines come later
	}
}
