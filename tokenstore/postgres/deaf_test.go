package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/memory"
)

// A notification to oneself that came late, from a server that was slow, has come: the connection hears.
func TestNotificationThatComesLateIsHeard(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Connection: testpg.Database(t)})
	l := &listener{
		config: s.listener.config, password: s.password, listens: true, same: true, channel: s.name, memory: memory.New(), watchers: s.watchers, clock: newClock(), outage: s.outage,
		logger: s.logger, first: make(chan error, 1), patience: time.Minute,
	}
	ctx, cancel := context.WithCancel(t.Context())
	notified := make(chan error, 1)
	l.notify = func(_ context.Context, channel, payload string) error {
		time.AfterFunc(deaf+pulse, func() { notified <- s.notify(ctx, channel, payload) })
		return nil
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = l.session(ctx) // which is cancelled
	}()
	defer func() {
		cancel()
		<-ended
	}()
	if err := <-notified; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the memory is trusted", func() bool { return l.trusted(time.Now()) })
}
