package caddyoauthproxy

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// providerMetrics tell at each scrape how the providers of one configuration answer, and how far behind its audit trail is. They go with it.
type providerMetrics struct{ app *App }

var (
	providerFailing = prometheus.NewDesc("caddy_oauth_proxy_provider_failing",
		"Whether the last request of this node to the provider failed: 1, or 0.", []string{"provider"}, nil)
	providerGateClosed = prometheus.NewDesc("caddy_oauth_proxy_provider_gate_closed",
		"Whether refreshes at the provider are held back because several in a row have failed: 1, or 0.", []string{"provider"}, nil)
	auditWaiting = prometheus.NewDesc("caddy_oauth_proxy_audit_waiting",
		"Refusals that are not yet written to the audit trail.", nil, nil)
)

// Describe implements prometheus.Collector.
func (providerMetrics) Describe(descs chan<- *prometheus.Desc) {
	descs <- providerFailing
	descs <- providerGateClosed
	descs <- auditWaiting
}

// Collect implements prometheus.Collector.
func (m providerMetrics) Collect(metrics chan<- prometheus.Metric) {
	if g := m.app.gateway.Load(); g != nil {
		metrics <- prometheus.MustNewConstMetric(auditWaiting, prometheus.GaugeValue, float64(g.vault.AuditWaiting()))
	}
	for _, h := range m.app.ProviderHealth() {
		metrics <- prometheus.MustNewConstMetric(providerFailing, prometheus.GaugeValue, oneIf(h.State == upstream.HealthFailing), h.Provider)
		metrics <- prometheus.MustNewConstMetric(providerGateClosed, prometheus.GaugeValue, oneIf(h.GateClosed), h.Provider)
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// ProviderHealth is how each provider of the configuration has answered this node, by name. It is empty until the config was started.
func (a *App) ProviderHealth() []upstream.ProviderHealth {
	g := a.gateway.Load()
	if g == nil {
		return nil
	}
	all := make([]upstream.ProviderHealth, 0, len(a.config.providers))
	for _, name := range slices.Sorted(maps.Keys(a.config.providers)) {
		if h, ok := g.accounts.Health(name); ok {
			all = append(all, h)
		}
	}
	return all
}
