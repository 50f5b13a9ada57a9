package caddyoauthproxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/postgres"
)

// inDatabase is a store in a database, which knows how it is with that.
type inDatabase interface {
	Status() postgres.Status
}

// databaseGauges and databaseCounters tell at each scrape how the vault of one configuration is with its database, where it is in one. They go with it.
type (
	databaseGauges   struct{ app *App }
	databaseCounters struct{ app *App }
)

func databaseDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("caddy_oauth_proxy_vault_"+name, help, labels, nil)
}

var (
	databaseReachable   = databaseDesc("reachable", "Whether the vault's database answers this node: 1, or 0.")
	databaseChanged     = databaseDesc("reachable_since_timestamp_seconds", "Since when the vault's database answers this node, or does not, in Unix time.")
	databaseListening   = databaseDesc("listening", "Whether this node hears what others change, and so remembers what it has read: 1, or 0.")
	databaseConnections = databaseDesc("connections", "Connections of this node to the vault's database, beside the one that listens, by state.", "state")
	databaseMost        = databaseDesc("connections_max", "The most connections of this node to the vault's database, beside the one that listens.")
	databaseCalls       = databaseDesc("calls", "Calls of the vault's database that run, or wait for a connection or for the database to come back.")
	databaseContact     = databaseDesc("contact_timestamp_seconds", "When the vault's database last answered this node, in Unix time.")
	databaseRepeats     = databaseDesc("repeats_total", "Calls of the vault's database that were made again, because another was in their way or their connection was lost.")
	databaseWaits       = databaseDesc("waits_total", "Calls of the vault's database that found no idle connection: they wait for one, or make it.")
)

// connectionStates are the values of the label state.
var connectionStates = []string{"used", "idle"}

// Describe implements prometheus.Collector.
func (databaseGauges) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		databaseReachable, databaseChanged, databaseContact, databaseListening, databaseConnections, databaseMost, databaseCalls,
	} {
		descs <- d
	}
}

// Describe implements prometheus.Collector.
func (databaseCounters) Describe(descs chan<- *prometheus.Desc) {
	descs <- databaseRepeats
	descs <- databaseWaits
}

// Collect implements prometheus.Collector.
func (d databaseGauges) Collect(metrics chan<- prometheus.Metric) {
	s, ok := d.app.databaseStatus()
	if !ok {
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(databaseReachable, oneIf(s.Reachable))
	gauge(databaseChanged, float64(s.Since.UnixMilli())/1000)
	gauge(databaseContact, float64(s.Contact.UnixMilli())/1000)
	if v, ok := d.app.vault.(*PostgresVault); !ok || v.options.listen != listenOff { // nobody is to miss what is switched off
		gauge(databaseListening, oneIf(s.Listening))
	}
	gauge(databaseConnections, float64(s.InUse), connectionStates[0])
	gauge(databaseConnections, float64(max(s.Connections-s.InUse, 0)), connectionStates[1])
	gauge(databaseMost, float64(s.MaxConns))
	gauge(databaseCalls, float64(s.Calls))
}

// Collect implements prometheus.Collector.
func (d databaseCounters) Collect(metrics chan<- prometheus.Metric) {
	s, ok := d.app.databaseStatus()
	if !ok {
		return
	}
	counter := func(d *prometheus.Desc, value uint64) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value))
	}
	counter(databaseRepeats, s.Repeats)
	counter(databaseWaits, s.Waits)
}

// databaseStatus is how the vault is with its database; not ok while it is not open, and where it is in none.
func (a *App) databaseStatus() (s postgres.Status, ok bool) {
	g := a.gateway.Load()
	if g == nil {
		return s, false
	}
	store, ok := g.store.(inDatabase)
	if !ok {
		return s, false
	}
	return store.Status(), true
}
