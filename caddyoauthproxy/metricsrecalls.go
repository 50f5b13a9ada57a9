package caddyoauthproxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// recalling is a store that remembers what it has read.
type recalling interface {
	Recalls() tokenstore.Recalls
}

// recallRows and recallCounts tell at each scrape what the vault of one configuration remembers, and what for. They go with it.
type (
	recallRows   struct{ app *App }
	recallCounts struct{ app *App }
)

var (
	remembered = databaseDesc("remembered_rows", "Records that this node remembers, opened, until they change.")
	recalls    = databaseDesc("recalls_total", "Lookups of what every request needs, by where the answer came from.", "from")
)

// recallSources are the values of the label from.
var recallSources = []string{"memory", "file", "database"}

// Describe implements prometheus.Collector.
func (recallRows) Describe(descs chan<- *prometheus.Desc) { descs <- remembered }

// Describe implements prometheus.Collector.
func (recallCounts) Describe(descs chan<- *prometheus.Desc) { descs <- recalls }

// Collect implements prometheus.Collector.
func (r recallRows) Collect(metrics chan<- prometheus.Metric) {
	if s, _, ok := r.app.recalls(); ok {
		metrics <- prometheus.MustNewConstMetric(remembered, prometheus.GaugeValue, float64(s.Rows))
	}
}

// Collect implements prometheus.Collector.
func (r recallCounts) Collect(metrics chan<- prometheus.Metric) {
	if s, source, ok := r.app.recalls(); ok {
		metrics <- prometheus.MustNewConstMetric(recalls, prometheus.CounterValue, float64(s.Hits), recallSources[0])
		metrics <- prometheus.MustNewConstMetric(recalls, prometheus.CounterValue, float64(s.Misses), source)
	}
}

// recalls is what the vault's storage remembers, and what it is read for otherwise; not ok while it is not open, and where it remembers nothing.
func (a *App) recalls() (r tokenstore.Recalls, source string, ok bool) {
	g := a.gateway.Load()
	if g == nil {
		return r, "", false
	}
	store, ok := g.store.(recalling)
	if !ok {
		return r, "", false
	}
	source = recallSources[1]
	if _, ok := g.store.(inDatabase); ok {
		source = recallSources[2]
	}
	return store.Recalls(), source, true
}
