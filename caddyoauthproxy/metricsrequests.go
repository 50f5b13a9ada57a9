package caddyoauthproxy

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// requestMetrics are those of one proxy's requests. Each series is looked up once: a request then costs a few atomic operations.
type requestMetrics struct {
	of       func(outcome, method string) prometheus.Counter
	counters [len(mcpfilter.OutcomeNames)][len(mcpfilter.MethodNames)]atomic.Pointer[prometheus.Counter]
	took     prometheus.Observer
	open     prometheus.Gauge
}

// ofRequests are those of a proxy.
func (m *metrics) ofRequests(proxy string) *requestMetrics {
	return &requestMetrics{
		of: func(outcome, method string) prometheus.Counter {
			return m.requests.WithLabelValues(proxy, outcome, method)
		},
		took: m.requestTime.WithLabelValues(proxy),
		open: m.streams.WithLabelValues(proxy),
	}
}

// served counts a request.
func (m *requestMetrics) served(s mcpfilter.Served) {
	cell := &m.counters[s.Outcome][s.Method]
	counter := cell.Load()
	if counter == nil {
		c := m.of(mcpfilter.OutcomeNames[s.Outcome], mcpfilter.MethodNames[s.Method]) // always the same one
		counter = &c
		cell.Store(counter)
	}
	(*counter).Inc()
	if s.Took > 0 {
		m.took.Observe(s.Took.Seconds())
	}
}

// streams counts an event stream that begins or ends.
func (m *requestMetrics) streams(change int) { m.open.Add(float64(change)) }
