package caddyoauthproxy

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// described is what a collector says of itself.
var described = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "(.*?)"(?:, unit: "[^"]*")?, constLabels: \{\}, variableLabels: \{([^}]*)\}\}$`)

// rowsOf are the lines of the table of docs/metrics.md that a collector should have.
func rowsOf(t *testing.T, c prometheus.Collector) (rows []string) {
	t.Helper()
	kind := "gauge"
	switch c.(type) {
	case *prometheus.CounterVec, databaseCounters, recallCounts:
		kind = "counter"
	case *prometheus.HistogramVec:
		kind = "histogram"
	}
	descs := make(chan *prometheus.Desc, 10)
	c.Describe(descs)
	close(descs)
	for d := range descs {
		m := described.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("unreadable: %s", d)
		}
		labels := ""
		if m[3] != "" {
			labels = "`" + strings.ReplaceAll(m[3], ",", "`, `") + "`"
		}
		rows = append(rows, "| `"+m[1]+"` | "+kind+" | "+labels+" | "+m[2]+" |")
	}
	return rows
}

func TestMetricsAreTheOnesThatTheDocumentationTells(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	doc, want := string(content), 0
	for _, c := range append(newMetrics().collectors(), providerMetrics{}, databaseGauges{}, databaseCounters{}, recallRows{}, recallCounts{}) {
		for _, row := range rowsOf(t, c) {
			want++
			if !strings.Contains(doc, "\n"+row+"\n") {
				t.Errorf("docs/metrics.md lacks the line\n%s", row)
			}
		}
	}
	if got := strings.Count(doc, "\n| `caddy_oauth_proxy_"); got != want {
		t.Errorf("docs/metrics.md tells of %d metrics; there are %d", got, want)
	}
}

// words writes the values of a label as the documentation does.
func words[T ~string](values ...T) string {
	var quoted []string
	for _, v := range values {
		quoted = append(quoted, "`"+string(v)+"`")
	}
	return strings.Join(quoted, " ")
}

func TestLabelValuesAreTheOnesThatTheDocumentationTells(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for label, values := range map[string]string{
		"`step`":                                words(authserver.Steps()...),
		"`outcome` of a step":                   words(authserver.Outcomes()...),
		"`reason`":                              words(authserver.Endings()...),
		"`grant_type`":                          words(authserver.GrantTypes()...),
		"`limit`":                               words(authserver.LimitNames()...),
		"`outcome` of what a provider is asked": words(append([]string{"ok"}, append(classWords(), gaveUp)...)...),
		"`outcome` of a clean-up":               words(cleanupOutcomes...),
		"`outcome` of an MCP request":           words(mcpfilter.OutcomeNames[:]...),
		"`method`":                              words(mcpfilter.MethodNames[:]...),
		"`type`":                                words(tokenstore.EventTypes()...),
		"`outcome` of an event":                 words(tokenstore.OutcomeOK, tokenstore.OutcomeRefused),
		"`health`":                              words(tokenstore.Healths()...),
		"`operation`":                           words(storeOperations...),
		"`state`":                               words(connectionStates...),
		"`from`":                                words(recallSources...),
		"`from` of `caddy_oauth_proxy_token_verifications_total`": words(verificationSources...),
		"`kind` of `caddy_oauth_proxy_vault_records`":             words(countedKinds...),
		"`kind` of `caddy_oauth_proxy_vault_deleted_total`":       words(sweptKinds()...),
	} {
		if row := "\n| " + label + " | " + values + " |"; !strings.Contains(string(content), row) {
			t.Errorf("docs/metrics.md lacks the line%s", row)
		}
	}
}

func classWords() (all []string) {
	for _, c := range upstream.Classes() {
		all = append(all, string(c))
	}
	return all
}

// sweptKinds are those of which anything is deleted by its age.
func sweptKinds() []tokenstore.Kind { return tokenstore.SweptKinds() }

// A configuration's registry is its own, and what was counted before is in it: also where two Apps share one.
func TestCountersGoOnInTheNextConfigurationsRegistry(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	app := new(App)
	m.ofServer().Limited("token")
	for _, registry := range []*prometheus.Registry{prometheus.NewRegistry(), prometheus.NewRegistry()} {
		if err := m.register(registry, providerMetrics{app}); err != nil {
			t.Fatal(err)
		}
		if err := m.register(registry, providerMetrics{app}); err != nil {
			t.Fatalf("once more: %v", err)
		}
		m.ofServer().Limited("token")
		families, err := registry.Gather()
		if err != nil || len(families) != 2 { // and the tokens that were verified, from the beginning
			t.Fatalf("%d families, %v", len(families), err)
		}
	}
	registry := prometheus.NewRegistry()
	if err := m.register(registry, providerMetrics{app}); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil || families[0].GetMetric()[0].GetCounter().GetValue() != 3 {
		t.Errorf("%v, %v; want 3 counted", families, err)
	}
	if err := newMetrics().register(registry, providerMetrics{app}); err == nil {
		t.Error("others of the same names are registered")
	}
}
