package upstream

import (
	"errors"
	"sync"
	"time"
)

// HealthState says in a word how a provider answers.
type HealthState string

// The states of a provider.
const (
	HealthUnknown HealthState = "unknown" // this node has asked it nothing yet
	HealthOK      HealthState = "ok"      // the last answer was good
	HealthFailing HealthState = "failing" // the last one was not, or none came
)

// ProviderHealth is how a provider has answered this node, since its configuration was loaded. Other nodes may see another picture.
type ProviderHealth struct {
	// Provider is the name under which it is configured.
	Provider string `json:"provider"`

	// State is unknown, ok or failing, by the last answer. That a user's code or refresh token is refused is a good answer.
	State HealthState `json:"state"`

	// LastSuccess is when the provider last gave a good answer. Left out when it has not.
	LastSuccess time.Time `json:"last_success,omitzero"`

	// LastFailure is when a request to it last failed, and LastFailureClass how: misconfigured (it refuses the gateway itself), throttled (it asks for
	// patience), unreachable (no answer, or 5xx), malformed (not what the protocol demands), or clock (the clocks disagree). Left out when none has.
	LastFailure      time.Time `json:"last_failure,omitzero"`
	LastFailureClass Class     `json:"last_failure_class,omitempty"`

	// FailuresInRow is how many requests have failed since the last good answer.
	FailuresInRow int `json:"failures_in_row"`

	// GateClosed says that refreshes are held back, because several accounts in a row failed, and GateClosedUntil until when: then a single one is let
	// through to see whether the provider is back. Of a provider with several authorization servers it is about the one that is held back for longest.
	GateClosed      bool      `json:"gate_closed"`
	GateClosedUntil time.Time `json:"gate_closed_until,omitzero"`

	// MetadataRead is when its metadata (OpenID Connect Discovery, RFC 8414) was read, and KeysRead when the keys (RFC 7517) were that verify its
	// ID tokens. Left out when they were not: they are read when they are first needed, and a provider of plain OAuth 2.0 has none.
	MetadataRead time.Time `json:"metadata_read,omitzero"`
	KeysRead     time.Time `json:"keys_read,omitzero"`
}

// health is what is kept of a provider's answers.
type health struct {
	mu      sync.Mutex
	success time.Time
	failure time.Time
	class   Class
	inRow   int
}

// answered notes how a request to the provider ended. What did not go out for a fault of ours says nothing.
func (p *Provider) answered(err error) {
	e, failed := errors.AsType[*Error](err)
	if err != nil && (!failed || e.Local) {
		return
	}
	h := &p.health
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil || e.Class == Rejected {
		h.success, h.inRow = p.now(), 0
		return
	}
	h.failure, h.class = p.now(), e.Class
	h.inRow++
}

// Health is how the provider has answered, as far as that needs no accounts: its gate is unknown here, see Accounts.Health.
func (p *Provider) Health() ProviderHealth {
	p.health.mu.Lock()
	defer p.health.mu.Unlock()
	h := ProviderHealth{
		Provider: p.name, State: HealthUnknown,
		LastSuccess: p.health.success, LastFailure: p.health.failure, LastFailureClass: p.health.class, FailuresInRow: p.health.inRow,
	}
	switch {
	case h.FailuresInRow > 0:
		h.State = HealthFailing
	case !h.LastSuccess.IsZero():
		h.State = HealthOK
	}
	if p.template.oidc || p.template.mcp { // of others nothing is read
		h.MetadataRead = p.metadata.readAt()
	}
	h.KeysRead = p.keys.readAt()
	return h
}

// readAt is when the document was fetched, zero when it was not.
func (d *document[T]) readAt() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fetched
}

// Health is how a provider has answered, and whether refreshes there are held back. ok is false when none of that name is configured.
func (a *Accounts) Health(provider string) (h ProviderHealth, ok bool) {
	p := a.providers[provider]
	if p == nil {
		return ProviderHealth{}, false
	}
	h = p.Health()
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.vault.Now()
	for _, g := range a.gates {
		if g.provider != provider {
			continue
		}
		if wait := g.wait(now); wait > 0 {
			h.GateClosed = true
			if until := now.Add(wait); until.After(h.GateClosedUntil) {
				h.GateClosedUntil = until
			}
		}
	}
	return h, true
}
