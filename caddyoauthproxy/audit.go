package caddyoauthproxy

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Audit says what is kept of the gateway's audit trail: who allowed whom what, what was issued, refused and ended. Each event is a line of
// the logger `oauth_proxy.audit`, in any case, and a Caddy event that the `events` app can act on.
type Audit struct {
	// How long events are kept in the vault, at least 1h. A shorter time than before concerns new events, once all older ones are past theirs. Default: 90d.
	Retention caddy.Duration `json:"retention,omitempty"`

	// Keep no events in the vault: they are only in the log. Not together with `retention`. Default: false.
	Off bool `json:"off,omitempty"`
}

func (a Audit) check() error {
	if a.Off && a.Retention != 0 {
		return errors.New("audit: off keeps no events, so it has no retention; leave one of them out")
	}
	return inRange("audit retention", a.Retention, time.Hour, 4000*24*time.Hour)
}

// audit reads:
//
//	audit off
//	audit {
//		retention <duration>
//	}
func audit(d *caddyfile.Dispenser, v *Audit) error {
	if d.NextArg() {
		if d.Val() != "off" || d.NextArg() {
			return d.Errf("audit takes off or a block, not %q", d.Val())
		}
		v.Off = true
	}
	seen := newOnce()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := seen.check(d); err != nil {
			return err
		}
		if d.Val() != "retention" {
			return unknown(d, "retention")
		}
		if err := duration(d, &v.Retention, false); err != nil {
			return err
		}
	}
	if err := v.check(); err != nil {
		return d.WrapErr(err)
	}
	if !v.Off && v.Retention == 0 {
		return d.Errf("audit says nothing: write audit off, or audit { retention 90d }")
	}
	return nil
}

// auditor tells the log and Caddy's events app of the events of the audit trail.
type auditor struct {
	log     *zap.Logger
	hooks   *hooks
	metrics *metrics

	failed atomic.Int64 // when a failure of the trail was last logged, in Unix seconds
}

// options are the vault's.
func (a *auditor) options(o Audit, end *anchor) tokenstore.AuditOptions {
	chained := func(s tokenstore.AuditSeal) {
		a.chained(s)
		end.grown()
	}
	return tokenstore.AuditOptions{Off: o.Off, Retention: time.Duration(o.Retention), Chained: chained, Failed: a.fails}
}

// recorded writes an event's line, and has it emitted.
func (a *auditor) recorded(e *tokenstore.Event) {
	a.line(e)
	a.hooks.add(e)
	a.metrics.audited(e)
}

// line writes an event's line.
func (a *auditor) line(e *tokenstore.Event) {
	if entry := a.log.Check(levelOf(e), wordsOfType.Replace(e.Type)); entry != nil {
		entry.Write(eventFields(e)...)
	}
}

// wordsOfType makes the type of an event a message.
var wordsOfType = strings.NewReplacer(".", " ", "_", " ")

// levelOf is how loud an event is: an error is for somebody to act on, a warning for somebody to know.
func levelOf(e *tokenstore.Event) zapcore.Level {
	switch e.Type {
	case tokenstore.EventVaultTampered, tokenstore.EventAuditDropped, tokenstore.EventUpstreamRevokeGivenUp:
		return zap.ErrorLevel
	case tokenstore.EventCodeReplayed, tokenstore.EventRefreshReplayed, tokenstore.EventUpstreamRefused, tokenstore.EventUpstreamLost, tokenstore.EventAPIKeyRevoked,
		tokenstore.EventVaultBackedUp, tokenstore.EventVaultRestored:
		return zap.WarnLevel
	default:
		return zap.InfoLevel
	}
}

// eventText are the members of an event that are text, by the names that they have in JSON.
func eventText(e *tokenstore.Event) [16][2]string {
	return [...][2]string{
		{"id", e.ID}, {"time", e.Time.Format(time.RFC3339Nano)}, {"type", e.Type}, {"outcome", e.Outcome},
		{"user_id", e.UserID}, {"user", e.User}, {"client_id", e.ClientID}, {"client", e.Client}, {"proxy", e.Proxy}, {"provider", e.Provider},
		{"grant", e.Grant}, {"account", e.Account}, {"consent", e.Consent}, {"jti", e.JTI}, {"address", e.Address}, {"reason", e.Reason},
	}
}

// eventFields are the members of an event for the log.
func eventFields(e *tokenstore.Event) []zap.Field {
	text := eventText(e)
	fields := make([]zap.Field, 1, 1+len(text)+1)
	fields[0] = zap.Object("actor", actorFields(e.Actor))
	for _, member := range text {
		if member[1] != "" {
			fields = append(fields, zap.String(member[0], member[1]))
		}
	}
	if len(e.Details) > 0 {
		fields = append(fields, zap.Object("details", detailFields(e.Details)))
	}
	return fields
}

// actorFields writes an actor as its JSON is.
type actorFields tokenstore.Actor

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (a actorFields) MarshalLogObject(line zapcore.ObjectEncoder) error {
	line.AddString("kind", a.Kind)
	for _, member := range [...][2]string{{"id", a.ID}, {"label", a.Label}} {
		if member[1] != "" {
			line.AddString(member[0], member[1])
		}
	}
	return nil
}

// detailFields writes the details of an event, in the order of their names.
type detailFields map[string]string

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (d detailFields) MarshalLogObject(line zapcore.ObjectEncoder) error {
	for _, name := range slices.Sorted(maps.Keys(d)) {
		line.AddString(name, d[name])
	}
	return nil
}

// chained logs what an operator who keeps the log elsewhere can hold the trail against.
func (a *auditor) chained(s tokenstore.AuditSeal) {
	a.log.Info("audit trail chained", zap.Uint64("number", s.Number), zap.String("hash", s.Hash), zap.Int("events", s.Events), zap.Time("first", s.First), zap.Time("last", s.Last))
}

// fails logs that the trail cannot be written, once a minute.
func (a *auditor) fails(err error) {
	a.metrics.auditFailures.WithLabelValues().Inc()
	now := time.Now().Unix()
	if last := a.failed.Load(); now-last >= 60 && a.failed.CompareAndSwap(last, now) {
		a.log.Error("audit trail cannot be written; trying again", zap.Error(err))
	}
}

// keepAudit writes the audit trail, and emits its events, until endAudit is called.
func (g *gateway) keepAudit(a *App) {
	stopKeeping, stop, emitted := g.vault.KeepAudit(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(emitted)
		a.auditor.hooks.run(stop)
	}()
	g.endAudit = func() {
		stopKeeping()
		ctx, cancel := context.WithTimeout(context.Background(), auditFlushTime)
		defer cancel()
		switch err := g.vault.FlushAudit(ctx); {
		case errors.Is(err, tokenstore.ErrReadOnly):
			g.handOver()
		case err != nil:
			a.auditor.log.Error("the last events could not be written to the audit trail", zap.Error(err))
		}
		close(stop)
		select {
		case <-emitted:
		case <-ctx.Done(): // the vault need not wait for handlers
		}
	}
}

// auditFlushTime bounds how long the end of a configuration waits for its last events to be written.
const auditFlushTime = 5 * time.Second

// configLoaded is the event of this configuration's coming into use.
func (a *App) configLoaded(v *tokenstore.Vault) *tokenstore.Event {
	e := v.NewEvent(a.ctx, tokenstore.EventConfigLoaded)
	kept := "90d"
	switch {
	case a.Audit.Off:
		kept = "off"
	case a.Audit.Retention > 0:
		kept = time.Duration(a.Audit.Retention).String()
	}
	e.Details = map[string]string{"issuer": a.config.issuer.String(), "proxies": listed(a.Proxies), "providers": listed(a.Providers), "audit": kept}
	return e
}
