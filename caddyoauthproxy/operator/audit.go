package operator

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// auditParameters are the query parameters that select events of the audit trail.
var auditParameters = []string{"type", "user_id", "client_id", "grant", "account", "consent", "jti", "proxy", "provider", "text", "from", "until"}

// EventPage is a page of the audit trail, the newest first. One may have few events or none and still a Next: so much is read for each.
type EventPage struct {
	Events []*tokenstore.Event `json:"events"`
	Next   string              `json:"next,omitempty"`

	// Faults say what part of the trail does not open. The rest is there all the same.
	Faults string `json:"faults,omitempty"`
}

// eventFilter reads what a request selects.
func eventFilter(r *http.Request) (f tokenstore.EventFilter, err error) {
	f = tokenstore.EventFilter{
		UserID: param(r, "user_id"), ClientID: param(r, "client_id"), Grant: param(r, "grant"), Account: param(r, "account"), Consent: param(r, "consent"),
		JTI: param(r, "jti"), Proxy: param(r, "proxy"), Provider: param(r, "provider"), Text: param(r, "text"), After: param(r, "after"),
	}
	if types := param(r, "type"); types != "" {
		f.Types = strings.Split(types, ",")
	}
	for _, t := range f.Types {
		if !slices.Contains(tokenstore.EventTypes(), t) {
			return f, bad("type %q is none: there are %s", t, strings.Join(tokenstore.EventTypes(), ", "))
		}
	}
	if f.From, err = timeOf(r, "from"); err != nil {
		return f, err
	}
	f.Until, err = timeOf(r, "until")
	return f, err
}

// timeOf reads a time of RFC 3339, or a day.
func timeOf(r *http.Request, name string) (time.Time, error) {
	text := param(r, name)
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, bad("%s %q is no time: write it like 2026-07-28T09:00:00Z, or 2026-07-28 for its first moment in UTC", name, text)
}

// events reads a page of the trail. faults say what does not open.
func (s *Server) events(r *http.Request, f tokenstore.EventFilter) (events []*tokenstore.Event, next, faults string, err error) {
	events, next, err = s.options.Vault.Events(r.Context(), f)
	switch {
	case errors.Is(err, tokenstore.ErrCursor):
		return nil, "", "", bad("after: %v", err)
	case errors.Is(err, tokenstore.ErrTampered):
		s.log.Error("part of the audit trail does not open", zap.Error(err))
		faults = "part of the audit trail does not open: verify it"
	case err != nil:
		return nil, "", "", err
	}
	return events, next, faults, nil
}

// queryAudit is GET /audit.
func (s *Server) queryAudit(w http.ResponseWriter, r *http.Request) (any, error) {
	f, err := eventFilter(r)
	if err != nil {
		return nil, err
	}
	if f.Limit, err = limitOf(r); err != nil {
		return nil, err
	}
	events, next, faults, err := s.events(r, f)
	if err != nil {
		return nil, err
	}
	linkNext(w, r, next)
	return EventPage{append([]*tokenstore.Event{}, events...), next, faults}, nil
}

// showEvent is GET /audit/{id}.
func (s *Server) showEvent(_ http.ResponseWriter, r *http.Request) (any, error) {
	return s.options.Vault.Event(r.Context(), r.PathValue("id"))
}

// AuditReport is what a verification found.
type AuditReport struct {
	Whole bool `json:"whole"`
	*tokenstore.AuditReport
}

// verifyAudit is GET /audit/verify. It changes nothing, and reads the whole trail.
func (s *Server) verifyAudit(_ http.ResponseWriter, r *http.Request) (any, error) {
	report, err := s.options.Vault.VerifyAudit(r.Context(), param(r, "anchor"))
	if errors.Is(err, tokenstore.ErrAnchor) {
		return nil, bad("anchor: %v", err)
	}
	if err != nil {
		return nil, err
	}
	return AuditReport{report.Whole(), report}, nil
}
