package caddyoauthproxy

import (
	"context"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// leaveBehind ends the streams of a configuration whose vault is in another store now. They would go on for hours and never hear that their grant was revoked there; clients open
// them again, at the configuration that has taken its place.
func (g *gateway) leaveBehind(a *App) {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	if f, err := g.frozen(ctx); err == nil && f.Frozen() {
		a.endStreams()
	}
}

// handOver gives the events that could not be written, because the vault was being moved, to the gateway that is in use now. That may be one whose vault is being moved
// as well: it hands them on in turn, or writes them when the move is broken off.
func (g *gateway) handOver() {
	app, err := caddy.ActiveContext().AppIfConfigured(mcpfilter.AppName)
	if err != nil {
		return
	}
	g.handOverTo(app.(*App).gateway.Load())
}

func (g *gateway) handOverTo(next *gateway) {
	if next == nil || next == g || next.vault.Identity() != g.vault.Identity() {
		return
	}
	for _, e := range g.vault.TakeNoted() {
		next.vault.Note(e)
	}
}
