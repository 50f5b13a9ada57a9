package authserver

import (
	"sync"
	"time"
)

// clockWatch holds the vault's clock against that of this process, which no one sets. What expired while both went alike did so in its own time, however much it was.
type clockWatch struct {
	mu    sync.Mutex
	began time.Time // by the vault's clock
	at    time.Time // the same moment, by the process's
}

// since is from when on the vault's clock, which says now, has gone as it should. It begins anew where that was set, or the machine slept.
func (c *clockWatch) since(now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ahead := now.Sub(c.began) - time.Since(c.at); c.at.IsZero() || ahead.Abs() > tidyAfter {
		c.began, c.at = now, time.Now()
	}
	return c.began
}
