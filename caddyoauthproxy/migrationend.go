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

// handOver gives the events that could not be written, because the vault was being moved, to the gateway that serves it where it is now.
func (g *gateway) handOver(ctx context.Context) {
	if f, err := g.frozen(ctx); err != nil || !f.Frozen() {
		return
	}
	app, err := caddy.ActiveContext().AppIfConfigured(mcpfilter.AppName)
	if err != nil {
		return
	}
	next := app.(*App).gateway.Load()
	if next == nil || next == g || next.vault.Identity() != g.vault.Identity() {
		return
	}
	if f, err := next.frozen(ctx); err != nil || f.Frozen() {
		return
	}
	for _, e := range g.vault.TakeNoted() {
		next.vault.Note(e)
	}
}
