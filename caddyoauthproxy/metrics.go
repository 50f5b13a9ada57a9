package caddyoauthproxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// metrics are the gateway's own in Caddy's registry. Labels are names of the configuration and words of this code, never what a request brings.
type metrics struct {
	refreshes *prometheus.CounterVec
}

// newMetrics registers them. Every configuration has a registry of its own.
func newMetrics(registry *prometheus.Registry) (*metrics, error) {
	m := &metrics{refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "oauth_proxy", Name: "upstream_refreshes_total",
		Help: "Requests to providers for new upstream tokens, by provider and outcome: ok, or the class of the failure.",
	}, []string{"provider", "outcome"})}
	return m, registry.Register(m.refreshes)
}

// refreshed counts a refresh.
func (m *metrics) refreshed(provider string, failure upstream.Class) {
	outcome := string(failure)
	if failure == "" {
		outcome = "ok"
	}
	m.refreshes.WithLabelValues(provider, outcome).Inc()
}
