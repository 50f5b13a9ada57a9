package tokenstore

import (
	"cmp"
	"fmt"
	"time"
)

// Health is how a grant fares, as people ask for it.
type Health string

// The healths of grants.
const (
	// HealthValid says that the grant works.
	HealthValid Health = "valid"

	// HealthExpiring says that less than a tenth of its life is left, and at most three days.
	HealthExpiring Health = "expiring"

	// HealthExpired says that nobody has renewed it in time. It is ended soon, with its tokens at the provider.
	HealthExpired Health = "expired"

	// HealthBroken says that its account must be connected again.
	HealthBroken Health = "broken"

	// HealthRevoked says that somebody ended it, or the gateway did.
	HealthRevoked Health = "revoked"
)

// Healths lists all of them.
func Healths() []Health {
	return []Health{HealthValid, HealthExpiring, HealthExpired, HealthBroken, HealthRevoked}
}

// maxExpiring is how long before its end a grant is expiring, at most.
const maxExpiring = 3 * 24 * time.Hour

// Health is how the grant fares, and why in words, empty for one that is valid.
func (g *Grant) Health(now time.Time) (h Health, reason string) {
	reached := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	idle, upstream := g.expiring()
	switch {
	case g.State != StateActive:
		return HealthRevoked, cmp.Or(g.Reason, "ended")
	case reached(g.Expires) && g.Family.Rotated.IsZero():
		return HealthExpired, "the client never redeemed its code"
	case reached(g.Expires):
		return HealthExpired, "nobody renewed it in time"
	case g.Broken != "":
		return HealthBroken, g.Broken
	case reached(g.UpstreamEnds):
		return HealthBroken, "the upstream token has ended, and there is none to renew it with"
	case reached(upstream):
		return HealthExpiring, fmt.Sprintf("the upstream token ends at %s, and there is none to renew it with", g.UpstreamEnds.UTC().Format(time.RFC3339))
	case reached(idle):
		return HealthExpiring, fmt.Sprintf("it ends at %s unless it is renewed", g.Expires.UTC().Format(time.RFC3339))
	default:
		return HealthValid, ""
	}
}

// expiring is from when on the grant, and its upstream token, count as ending soon; zero for never. While nobody has redeemed its code a grant lives for moments, and
// is to be left alone.
func (g *Grant) expiring() (idle, upstream time.Time) {
	if g.Family.Rotated.IsZero() {
		return idle, upstream
	}
	before := func(begin, end time.Time) time.Time { return end.Add(-min(max(end.Sub(begin), 0)/10, maxExpiring)) }
	if !g.UpstreamEnds.IsZero() {
		upstream = before(g.Created, g.UpstreamEnds)
	}
	return before(g.Family.Rotated, g.Expires), upstream
}

// turns is when the grant's health turns next by time alone; zero for never. It is a whole millisecond, as clear columns are, and not before the turn.
func (g *Grant) turns(now time.Time) time.Time {
	if g.State != StateActive {
		return time.Time{}
	}
	var next time.Time
	idle, upstream := g.expiring()
	for _, t := range []time.Time{idle, upstream, g.UpstreamEnds, g.Expires} {
		if now.Before(t) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if next.IsZero() {
		return next
	}
	return next.Add(time.Millisecond - 1).Truncate(time.Millisecond)
}

// refHealth begins the reference of grants of a health, as of when they were saved.
const refHealth = "health:"

// index adds what grants are found by.
func (g *Grant) index(v *Vault, l *layout) {
	now := v.now()
	health, _ := g.Health(now)
	l.due = g.turns(now)
	l.refs = append(l.refs, "client:"+g.ClientID, "user:"+g.UserID, "account:"+g.AccountID, "proxy:"+g.Proxy, refHealth+string(health))
	if g.Provider != "" {
		l.refs = append(l.refs, "provider:"+g.Provider)
	}
	if g.State == StateActive && g.Proxy != "" {
		l.refs = append(l.refs, refLiving+g.Proxy)
	}
	if g.State == StateActive && g.Family.Generation > 0 {
		l.refs = append(l.refs, refRefreshable(g.UserID, g.ClientID))
	}
	for _, word := range g.words() {
		l.refs = append(l.refs, v.refWord(word))
	}
}
