package caddyoauthproxy

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// The routes by which balancers and supervisors ask how the process is, below the issuer's path.
const (
	livePath  = "/oauth/live"
	readyPath = "/oauth/ready"
)

// readyText is what is answered where all is well.
const readyText = "ready"

const (
	// askAgain is how long an answer of the vault is good for all who ask whether the process is ready.
	askAgain = time.Second

	// answerWithin bounds how long one who asks waits for the vault.
	answerWithin = 500 * time.Millisecond
)

// serveHealth answers the health routes, and reports whether the request was for one.
func (a *App) serveHealth(w http.ResponseWriter, r *http.Request) bool {
	path, ours := strings.CutPrefix(r.URL.Path, a.config.issuer.Path)
	if !ours || path != livePath && path != readyPath {
		return false
	}
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	status, text := http.StatusOK, "live"
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		status, text = http.StatusMethodNotAllowed, "only GET and HEAD"
	case path == readyPath:
		text = readyText
		if why := a.notReady(r); why != "" {
			w.Header().Set("Retry-After", "1")
			status, text = http.StatusServiceUnavailable, why
		}
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write([]byte(text + "\n")) // who asked may be gone
	}
	return true
}

// notReady says why no requests should be sent here, or is empty.
func (a *App) notReady(r *http.Request) string {
	if shuttingDown(r) {
		return "shutting down"
	}
	g, err := a.open()
	if err != nil {
		return "the vault is not open"
	}
	if g.vault.LockedOut() {
		return "the vault's keys are not known here: load the configuration with its encryption_key"
	}
	asking, stale := g.contact.ask(g), time.Duration(0)
	if v, ok := a.vault.(*PostgresVault); ok {
		stale = v.options.maxStale
	}
	switch s, ok := a.databaseStatus(); {
	case ok && !s.Reachable: // which is known sooner than a question is answered
		if time.Since(s.Since) <= stale {
			return "" // requests are answered from memory
		}
	case g.contact.answeredWithin(stale), g.contact.answers(r.Context(), asking):
		return ""
	}
	return "the vault does not answer"
}

// shuttingDown reports whether the process ends, or the server stops listening, soon.
func shuttingDown(r *http.Request) bool {
	if caddy.Exiting() {
		return true
	}
	if _, served := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); !served {
		return false
	}
	replacer, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return false
	}
	announced, _ := replacer.Get("http.shutting_down")
	yes, _ := announced.(bool)
	return yes
}

// contact is when the vault has last answered those who ask whether the process is ready.
type contact struct {
	mu       sync.Mutex
	answered time.Time
	asked    time.Time
	asking   chan struct{} // closed once the vault has answered, or not; nil when it is not asked
}

// ask asks the vault, unless it is asked already or was a moment ago: it is asked once in a while, however many want to know. The channel is closed when there is an answer; it
// is nil when that is there.
func (c *contact) ask(g *gateway) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asking != nil || !c.asked.IsZero() && time.Since(c.asked) < askAgain {
		return c.asking
	}
	leave, err := g.acquire()
	if err != nil {
		return nil
	}
	asking := make(chan struct{})
	c.asked, c.asking = time.Now(), asking
	go func() {
		defer leave()
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		_, err := tokenstore.Initialized(ctx, g.store) // any row would do, and none as well
		c.told(asking, err == nil)
	}()
	return asking
}

// told notes whether the vault has answered.
func (c *contact) told(asking chan struct{}, answered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answered {
		c.answered = time.Now()
	}
	c.asking = nil
	close(asking)
}

// answeredWithin reports whether the vault has answered in the last so long.
func (c *contact) answeredWithin(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.answered.IsZero() && time.Since(c.answered) <= d
}

// answers reports whether the vault has answered since it was last asked. It waits for that, though not for long.
func (c *contact) answers(ctx context.Context, asking <-chan struct{}) bool {
	if asking != nil {
		late := time.NewTimer(answerWithin)
		defer late.Stop()
		select {
		case <-asking:
		case <-late.C:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.asked.IsZero() && !c.answered.Before(c.asked)
}
