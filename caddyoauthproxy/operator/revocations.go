package operator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// NewRevocation is the body of a request to revoke many grants.
type NewRevocation struct {
	// Which grants. Required, so that none is meant by mistake.
	Filter *GivenFilter `json:"filter"`

	// Why, for operators: at most 500 characters.
	Reason string `json:"reason,omitempty"`

	// Says how many grants there are, and ends none.
	DryRun bool `json:"dry_run,omitempty"`
}

// GivenFilter is the filter of a request. A member that is there has a value.
type GivenFilter authserver.RevocationFilter

// UnmarshalJSON implements json.Unmarshaler. An empty text, such as that of a variable that a script forgot to set, would have more ended than was asked for.
func (f *GivenFilter) UnmarshalJSON(raw []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return err
	}
	for name, value := range members {
		if string(value) == `""` {
			return fmt.Errorf("%.40q is empty: give it a value, or leave it out", name)
		}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	return d.Decode((*authserver.RevocationFilter)(f))
}

// DryRun is the answer to a dry run.
type DryRun struct {
	Filter   authserver.RevocationFilter `json:"filter"`
	Matched  int                         `json:"matched"`
	Warnings []string                    `json:"warnings,omitempty"`
}

// RevocationPage is a page of revocation orders, the newest first. Next is the `after` of the page behind it, empty on the last.
type RevocationPage struct {
	Revocations []*authserver.RevocationOrder `json:"revocations"`
	Next        string                        `json:"next,omitempty"`
}

// revokeGrants is POST /revocations. It is answered 202 when the order is durable and in force; the grants' own rows follow.
func (s *Server) revokeGrants(w http.ResponseWriter, r *http.Request) (any, error) {
	var body NewRevocation
	if err := readJSON(w, r, &body, "filter, reason and dry_run"); err != nil {
		return nil, err
	}
	if body.Filter == nil {
		return nil, bad("filter is missing: say which grants by at least one of user_id, client_id, proxy and provider, or by all for every grant")
	}
	filter := authserver.RevocationFilter(*body.Filter)
	if body.DryRun {
		n, err := s.options.Gateway.CountGrants(r.Context(), filter)
		if err != nil {
			return nil, err
		}
		return DryRun{filter, n, s.options.Gateway.RevocationWarnings(filter)}, nil
	}
	order, err := s.options.Gateway.RevokeGrants(r.Context(), filter, by(r.Context()), body.Reason)
	if err != nil {
		return nil, err
	}
	w.Header().Set("Location", "revocations/"+url.PathEscape(order.ID))
	writeJSON(w, http.StatusAccepted, order)
	return nil, nil
}

// by is who asks for something, as an order has it.
func by(ctx context.Context) string {
	a := tokenstore.ActorFrom(ctx)
	return cmp.Or(a.Label, a.ID)
}

// listRevocations is GET /revocations.
func (s *Server) listRevocations(w http.ResponseWriter, r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	page, err := s.revocationsAfter(r.Context(), param(r, "after"), limit)
	if err != nil {
		return nil, err
	}
	linkNext(w, r, page.Next)
	return page, nil
}

func (s *Server) revocationsAfter(ctx context.Context, after string, limit int) (page RevocationPage, err error) {
	all, err := s.options.Gateway.RevocationOrders(ctx)
	if err != nil {
		return page, err
	}
	if after != "" {
		i := slices.IndexFunc(all, func(o *authserver.RevocationOrder) bool { return o.ID == after })
		if i < 0 {
			return page, bad("after: the order that the page before ended with is gone: begin again")
		}
		all = all[i+1:]
	}
	page.Revocations = all
	if len(all) > limit {
		page.Revocations, page.Next = all[:limit], all[limit-1].ID
	}
	return page, nil
}

// showRevocation is GET /revocations/{id}.
func (s *Server) showRevocation(_ http.ResponseWriter, r *http.Request) (any, error) {
	return s.options.Gateway.RevocationOrder(r.Context(), r.PathValue("id"))
}
