package caddyoauthproxy

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// maxHooked bounds how many events wait for the events app.
const maxHooked = 1024

// hooks emits the events of the audit trail as Caddy events. The events app calls handlers one after the other and waits for each, so it is asked by a
// goroutine of its own, and what finds no room there is dropped: it is in the log and in the trail. Nil hooks emit nothing.
type hooks struct {
	ctx     caddy.Context
	app     *caddyevents.App
	log     *zap.Logger
	started chan struct{} // the configuration is in use, and so the events app ready
	over    <-chan struct{}
	once    sync.Once
	begun   func()

	queue   chan *tokenstore.Event
	dropped atomic.Int64
}

// newHooks is to be called while the app is provisioned. begun is called once all apps of the configuration run; over is closed when it is not in use any more.
func newHooks(ctx caddy.Context, log *zap.Logger, over <-chan struct{}, begun func()) (*hooks, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, fmt.Errorf("events app: %w", err)
	}
	ctx.Context = context.WithoutCancel(ctx.Context) // handlers are called for the last events, too
	h := &hooks{
		ctx: ctx, app: app.(*caddyevents.App), log: log, started: make(chan struct{}), over: over, begun: begun,
		queue: make(chan *tokenstore.Event, maxHooked),
	}
	return h, h.app.On("started", h)
}

// Handle implements caddyevents.Handler, for the event that Caddy emits when all apps have started.
func (h *hooks) Handle(context.Context, caddy.Event) error {
	h.once.Do(func() {
		close(h.started)
		h.begun()
	})
	return nil
}

// add has an event emitted, unless too many wait.
func (h *hooks) add(e *tokenstore.Event) {
	if h == nil {
		return
	}
	select {
	case h.queue <- e:
	default:
		h.dropped.Add(1)
	}
}

// run emits what is added, until stop is closed and nothing waits.
func (h *hooks) run(stop <-chan struct{}) {
	if h == nil {
		return
	}
	select {
	case <-h.started:
	case <-stop: // the configuration never came into use
		return
	}
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case e := <-h.queue:
			h.emit(e)
		case <-tick.C:
			h.tellDropped()
		case <-stop:
			for len(h.queue) > 0 {
				h.emit(<-h.queue)
			}
			h.tellDropped()
			return
		}
	}
}

func (h *hooks) tellDropped() {
	if n := h.dropped.Swap(0); n > 0 {
		h.log.Warn("events were not emitted, because handlers of the events app take too long; they are in the log and in the audit trail", zap.Int64("events", n))
	}
}

// emit emits an event at the events app of this configuration, or of the one that took its place.
func (h *hooks) emit(e *tokenstore.Event) {
	ctx, app := h.ctx, h.app
	select {
	case <-h.over:
		ctx = caddy.ActiveContext()
		running, err := ctx.AppIfConfigured("events")
		if err != nil {
			return // the process ends
		}
		app = running.(*caddyevents.App)
	default:
	}
	name := "oauth_proxy." + strings.ReplaceAll(e.Type, ".", "_")
	if app.ShouldEmit(name) {
		app.Emit(ctx, name, eventData(e))
	}
}

// eventData is an event as handlers get it: everything is text, under the names that it has in the log.
func eventData(e *tokenstore.Event) map[string]any {
	data := map[string]any{"actor.kind": e.Actor.Kind, "actor.id": e.Actor.ID, "actor.label": e.Actor.Label}
	for _, member := range eventText(e) {
		data[member[0]] = member[1]
	}
	for name, value := range e.Details {
		data["details."+name] = value
	}
	return data
}

// Interface guard
var _ caddyevents.Handler = (*hooks)(nil)
