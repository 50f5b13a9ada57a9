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

const (
	// askAgain is how long an answer of the vault is good for all who ask whether the process is ready.
	askAgain = time.Second

	// answerWithin bounds how long one who asks waits for the vault.
	answerWithin = time.Second
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
		text = "ready"
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
	if !g.contact.ask(r.Context(), g) {
		return "the vault does not answer"
	}
	return ""
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

// contact is when the vault has last answered.
type contact struct {
	patience time.Duration // how long after an answer the vault need not answer

	mu       sync.Mutex
	answered time.Time
	asked    time.Time
	asking   chan struct{} // closed once the vault has answered, or not; nil when it is not asked
}

// newContact begins with an answer, which opening the vault was.
func newContact(v Vault) *contact {
	c := &contact{answered: time.Now()}
	if p, ok := v.(*PostgresVault); ok {
		c.patience = p.options.maxStale
	}
	return c
}

// ask reports whether the vault answers, or did not long ago. However many ask, the vault is asked once in a while.
func (c *contact) ask(ctx context.Context, g *gateway) bool {
	c.mu.Lock()
	if c.asking == nil && time.Since(c.asked) >= askAgain {
		leave, err := g.acquire()
		if err != nil {
			c.mu.Unlock()
			return false
		}
		asking := make(chan struct{})
		c.asked, c.asking = time.Now(), asking
		go func() {
			defer leave()
			c.told(asking, answers(g.store))
		}()
	}
	asking := c.asking
	c.mu.Unlock()
	if asking != nil {
		late := time.NewTimer(answerWithin)
		defer late.Stop()
		select {
		case <-asking:
		case <-late.C:
		case <-ctx.Done():
		}
	}
	return c.good()
}

// answers reads something of the vault, which need not be there.
func answers(s tokenstore.Store) bool {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	_, err := tokenstore.Initialized(ctx, s)
	return err == nil
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

// good reports whether the last answer is new enough: since the vault was last asked, or within its patience.
func (c *contact) good() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.answered.Before(c.asked) || time.Since(c.answered) <= c.patience
}
