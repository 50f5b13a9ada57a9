package caddyoauthproxy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// metrics are the gateway's own in Caddy's registry. Labels are names of the configuration and words of this code, never what a request brings.
type metrics struct {
	// of the authorization server
	steps       *prometheus.CounterVec
	issued      *prometheus.CounterVec
	tokenLife   *prometheus.HistogramVec
	ended       *prometheus.CounterVec
	grantLife   *prometheus.HistogramVec
	rateLimited *prometheus.CounterVec
	verified    *prometheus.CounterVec

	// of the upstream tokens
	refreshes   *prometheus.CounterVec
	refreshTime *prometheus.HistogramVec
	waits       *prometheus.HistogramVec
	broken      *prometheus.CounterVec
	revocations *prometheus.CounterVec

	// of MCP requests
	requests    *prometheus.CounterVec
	requestTime *prometheus.HistogramVec
	streams     *prometheus.GaugeVec

	// of the vault
	vaultTime   *prometheus.HistogramVec
	vaultErrors *prometheus.CounterVec
	deleted     *prometheus.CounterVec
	records     *prometheus.GaugeVec
	grants      *prometheus.GaugeVec
	fileBytes   *prometheus.GaugeVec
	freeBytes   *prometheus.GaugeVec

	// of the audit trail
	auditEvents   *prometheus.CounterVec
	auditFailures *prometheus.CounterVec
	auditDropped  *prometheus.CounterVec

	// of the clean-up
	cleanups     *prometheus.CounterVec
	cleanupTime  *prometheus.HistogramVec
	cleanupLast  *prometheus.GaugeVec
	cleanupEvery *prometheus.GaugeVec
	cleaning     atomic.Bool // cleanupLast has begun
}

// measured are this process's. Every configuration has a registry of its own: counters that were made with each would begin at zero again with
// every reload, and what still runs under the configuration before would count where nobody looks.
var measured = newMetrics()

// Buckets of the histograms, in seconds. Those of lives are the usual settings.
var (
	quickBuckets   = []float64{.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1, 5, 10}
	requestBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}
	lifeBuckets    = []float64{60, 300, 900, 1800, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600, 90 * 24 * 3600, 365 * 24 * 3600}
)

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "caddy", Subsystem: "oauth_proxy", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "caddy", Subsystem: "oauth_proxy", Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "caddy", Subsystem: "oauth_proxy", Name: name, Help: help, Buckets: buckets}, labels)
	}
	return &metrics{
		steps:       counter("flow_steps_total", "Steps of logins, and requests for tokens, by step, outcome and proxy.", "step", "outcome", "proxy"),
		issued:      counter("tokens_issued_total", "Access tokens and session tokens handed out, by grant type and proxy.", "grant_type", "proxy"),
		tokenLife:   histogram("access_token_lifetime_seconds", "How long the access tokens and session tokens live that were handed out, by proxy.", lifeBuckets, "proxy"),
		ended:       counter("grants_ended_total", "Grants that have ended, by reason and proxy.", "reason", "proxy"),
		grantLife:   histogram("grant_lifetime_seconds", "How long the grants have lived that have ended, by proxy.", lifeBuckets, "proxy"),
		rateLimited: counter("rate_limited_total", "Requests that a rate limit has refused, by limit.", "limit"),
		verified: counter("token_verifications_total",
			"Access tokens and session tokens that requests came with, by where the gateway knew from whether their signatures are good.", "from"),

		refreshes: counter("upstream_refreshes_total",
			"Requests to providers for new upstream tokens, by provider and outcome: ok, or the class of the failure.", "provider", "outcome"),
		refreshTime: histogram("upstream_refresh_duration_seconds", "How long requests to providers for new upstream tokens took, with repetitions, by provider.",
			requestBuckets, "provider"),
		waits:  histogram("upstream_refresh_wait_seconds", "How long requests waited for a refresh that another request had begun, by provider.", requestBuckets, "provider"),
		broken: counter("accounts_broken_total", "Accounts whose users must connect them again, by provider.", "provider"),
		revocations: counter("upstream_revocations_total",
			"Attempts to have providers end tokens, by provider and outcome: ok, the class of the failure, or gave_up for an account that is not tried again.",
			"provider", "outcome"),

		requests:    counter("mcp_requests_total", "MCP requests, by proxy, outcome and method.", "proxy", "outcome", "method"),
		requestTime: histogram("mcp_request_duration_seconds", "How long MCP requests took that do not wait for events, by proxy.", requestBuckets, "proxy"),
		streams:     gauge("mcp_open_streams", "Event streams that are open, by proxy.", "proxy"),

		vaultTime:   histogram("vault_operation_duration_seconds", "How long operations of the vault's store took, by operation.", quickBuckets, "operation"),
		vaultErrors: counter("vault_errors_total", "Operations of the vault's store that failed, by operation.", "operation"),
		deleted:     counter("vault_deleted_total", "Records deleted because they were past their time, or gave way to newer ones, by kind.", "kind"),
		records:     gauge("vault_records", "Records in the vault, by kind, counted once a minute at most.", "kind"),
		grants:      gauge("grants", "Grants, by health, counted once a minute at most.", "health"),
		fileBytes:   gauge("vault_file_bytes", "Size of the vault's file."),
		freeBytes:   gauge("vault_free_bytes", "How much of the vault's file is free for new records."),

		auditEvents:   counter("audit_events_total", "Events of the audit trail, by type and outcome.", "type", "outcome"),
		auditFailures: counter("audit_failures_total", "Attempts to write or chain events of the audit trail that failed; they are made again."),
		auditDropped:  counter("audit_dropped_total", "Events that are in the log alone, because more happened than could be written to the audit trail."),

		cleanups:     counter("cleanup_runs_total", "Clean-ups, by outcome.", "outcome"),
		cleanupTime:  histogram("cleanup_duration_seconds", "How long clean-ups took.", requestBuckets),
		cleanupLast:  gauge("cleanup_last_success_timestamp_seconds", "When this process last cleaned up, in Unix time; before the first time, when that was turned on."),
		cleanupEvery: gauge("cleanup_interval_seconds", "How often the configuration wants it cleaned up."),
	}
}

// collectors are all of them.
func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.steps, m.issued, m.tokenLife, m.ended, m.grantLife, m.rateLimited, m.verified,
		m.refreshes, m.refreshTime, m.waits, m.broken, m.revocations,
		m.requests, m.requestTime, m.streams,
		m.vaultTime, m.vaultErrors, m.deleted, m.records, m.grants, m.fileBytes, m.freeBytes,
		m.auditEvents, m.auditFailures, m.auditDropped,
		m.cleanups, m.cleanupTime, m.cleanupLast, m.cleanupEvery,
	}
}

// register puts them into a configuration's registry, and those that are of this configuration alone.
func (m *metrics) register(registry prometheus.Registerer, own ...prometheus.Collector) error {
	for _, c := range append(m.collectors(), own...) {
		err := registry.Register(c)
		if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && (!ok || there.ExistingCollector != c) {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	return nil
}

// expect begins the series of a configuration at zero that alerts look at: the first failure of a series that was not there before is no increase.
func (m *metrics) expect(proxies []*authserver.Proxy, providers map[string]*upstream.Provider) {
	for _, p := range proxies {
		for _, step := range []authserver.Step{authserver.StepAuthorize, authserver.StepConsent, authserver.StepCallback, authserver.StepCode, authserver.StepRefresh} {
			for _, outcome := range []authserver.Outcome{authserver.OutcomeOK, authserver.OutcomeDenied, authserver.OutcomeRefused, authserver.OutcomeFailed} {
				m.steps.WithLabelValues(string(step), string(outcome), p.ID)
			}
		}
		for _, why := range authserver.Endings() {
			m.ended.WithLabelValues(string(why), p.ID)
		}
		m.streams.WithLabelValues(p.ID)
	}
	for name := range providers {
		m.broken.WithLabelValues(name)
		for _, outcome := range outcomes() {
			m.refreshes.WithLabelValues(name, outcome)
			m.revocations.WithLabelValues(name, outcome)
		}
		m.revocations.WithLabelValues(name, gaveUp)
	}
	for _, limit := range authserver.LimitNames() {
		m.rateLimited.WithLabelValues(limit)
	}
	for _, outcome := range cleanupOutcomes {
		m.cleanups.WithLabelValues(outcome)
	}
	m.auditFailures.WithLabelValues()
	m.auditDropped.WithLabelValues()
	for _, operation := range storeOperations {
		m.vaultErrors.WithLabelValues(operation)
	}
}

// outcomes of what is asked of a provider.
func outcomes() []string {
	classes := upstream.Classes()
	words := make([]string, 0, 1+len(classes))
	words = append(words, "ok")
	for _, class := range classes {
		words = append(words, string(class))
	}
	return words
}

// outcomeOf is ok, or the class of a failure.
func outcomeOf(failure upstream.Class) string {
	if failure == "" {
		return "ok"
	}
	return string(failure)
}

// verificationSources are where it is known from whether a token's signature is good.
var verificationSources = []string{"memory", "signature"}

// cleanupOutcomes are those of a clean-up.
var cleanupOutcomes = []string{"ok", "failed", "held"}

// gaveUp is the outcome of a revocation that is not tried again.
const gaveUp = "gave_up"

// ofAccounts count what happens to accounts.
func (m *metrics) ofAccounts() upstream.Acts {
	return upstream.Acts{
		Refreshed: func(provider string, failure upstream.Class, took time.Duration) {
			m.refreshes.WithLabelValues(provider, outcomeOf(failure)).Inc()
			m.refreshTime.WithLabelValues(provider).Observe(took.Seconds())
		},
		Waited: func(provider string, took time.Duration) { m.waits.WithLabelValues(provider).Observe(took.Seconds()) },
		Broke:  func(provider string) { m.broken.WithLabelValues(provider).Inc() },
		Revoked: func(provider string, failure upstream.Class) {
			m.revocations.WithLabelValues(provider, outcomeOf(failure)).Inc()
		},
		GaveUp: func(provider string) { m.revocations.WithLabelValues(provider, gaveUp).Inc() },
	}
}

// audited counts an event of the audit trail.
func (m *metrics) audited(e *tokenstore.Event) {
	if !slices.Contains(tokenstore.EventTypes(), e.Type) {
		return // a label is a word of this code
	}
	m.auditEvents.WithLabelValues(e.Type, e.Outcome).Inc()
	if n, err := strconv.ParseUint(e.Details["count"], 10, 32); err == nil && e.Type == tokenstore.EventAuditDropped {
		m.auditDropped.WithLabelValues().Add(float64(n))
	}
}

// ofServer count what the authorization server does.
func (m *metrics) ofServer() authserver.Acts {
	remembered, checked := m.verified.WithLabelValues(verificationSources[0]), m.verified.WithLabelValues(verificationSources[1])
	return authserver.Acts{
		Stepped: func(step authserver.Step, outcome authserver.Outcome, proxy string) {
			m.steps.WithLabelValues(string(step), string(outcome), proxy).Inc()
		},
		Issued: func(grantType, proxy string, life time.Duration) {
			m.issued.WithLabelValues(grantType, proxy).Inc()
			m.tokenLife.WithLabelValues(proxy).Observe(life.Seconds())
		},
		Ended: func(why authserver.Ending, proxy string, life time.Duration) {
			m.ended.WithLabelValues(string(why), proxy).Inc()
			m.grantLife.WithLabelValues(proxy).Observe(life.Seconds())
		},
		Limited: func(limit string) { m.rateLimited.WithLabelValues(limit).Inc() },
		Verified: func(known bool) {
			if known {
				remembered.Inc()
			} else {
				checked.Inc()
			}
		},
	}
}
