package caddyoauthproxy

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// exported are the labels of every series that the gateway exports, by its name; those that the rules record are among them.
func exported(t *testing.T, rules string) map[string][]string {
	t.Helper()
	names := make(map[string][]string)
	for _, c := range append(newMetrics().collectors(), providerMetrics{}, databaseGauges{}, databaseCounters{}, recallRows{}, recallCounts{}) {
		_, isHistogram := c.(*prometheus.HistogramVec)
		descs := make(chan *prometheus.Desc, 10)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			m := described.FindStringSubmatch(d.String())
			labels := append(strings.Split(m[3], ","), "instance", "job") // which Prometheus adds
			if !isHistogram {
				names[m[1]] = labels
				continue
			}
			names[m[1]+"_sum"], names[m[1]+"_count"], names[m[1]+"_bucket"] = labels, labels, append(slices.Clone(labels), "le")
		}
	}
	for _, m := range regexp.MustCompile(`- record: (\S+)`).FindAllStringSubmatch(rules, -1) {
		names[m[1]] = []string{"proxy", "provider"}
	}
	return names
}

var (
	selector = regexp.MustCompile(`(caddy_oauth_proxy[a-z0-9_:]+)(\{[^}]*\})?`)
	matcher  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
	grouping = regexp.MustCompile(`by \(([^)]*)\)`)
)

// checkExpression finds metrics and labels in an expression that are not exported.
func checkExpression(t *testing.T, where, expression string, names map[string][]string) {
	t.Helper()
	found := selector.FindAllStringSubmatch(expression, -1)
	if len(found) == 0 {
		t.Errorf("%s: no metric in %s", where, expression)
	}
	var all []string
	for _, m := range found {
		labels, ok := names[m[1]]
		if !ok {
			t.Errorf("%s: the gateway exports no %s", where, m[1])
			continue
		}
		all = append(all, labels...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(labels, l[1]) {
				t.Errorf("%s: %s has no label %s", where, m[1], l[1])
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(expression, -1) {
		for label := range strings.SplitSeq(m[1], ",") {
			if !slices.Contains(all, strings.TrimSpace(label)) {
				t.Errorf("%s: nothing there has the label %s", where, label)
			}
		}
	}
}

func readMonitoring(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile("../examples/monitoring/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// promtool checks the rules for what they are, and internal/e2e has a gateway provoke them.
func TestRulesAskForMetricsThatThereAre(t *testing.T) {
	t.Parallel()
	rules := readMonitoring(t, "prometheus-rules.yml")
	names, count := exported(t, rules), 0
	for part := range strings.SplitSeq(rules, "\n      - ") {
		_, expression, ok := strings.Cut(part, "expr: ")
		if !ok {
			continue
		}
		expression, _, _ = strings.Cut(expression, "\n        ann")
		expression, _, _ = strings.Cut(expression, "\n        labels:")
		expression, _, _ = strings.Cut(expression, "\n        for:")
		expression, _, _ = strings.Cut(expression, "\n  - name:")
		count++
		checkExpression(t, strings.SplitN(part, "\n", 2)[0], expression, names)
	}
	if count < 18 {
		t.Errorf("%d expressions were read", count)
	}
}

func TestAlertsLinkToRunbooksThatThereAre(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	anchors := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(content), -1) {
		anchors[strings.ReplaceAll(strings.ToLower(m[1]), " ", "-")] = true
	}
	rules := readMonitoring(t, "prometheus-rules.yml")
	links := regexp.MustCompile(`runbook_url: https://\S+/docs/operations\.md#(\S+)`).FindAllStringSubmatch(rules, -1)
	if alerts := strings.Count(rules, "- alert: "); len(links) != alerts || alerts < 12 {
		t.Errorf("%d alerts have %d links", alerts, len(links))
	}
	for _, m := range links {
		if !anchors[m[1]] {
			t.Errorf("docs/operations.md has no section #%s", m[1])
		}
	}
}

// dashboard is what Grafana's JSON model demands, as far as the gateway's dashboard uses it.
type dashboard struct {
	Title         string `json:"title"`
	UID           string `json:"uid"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []struct {
			Name  string          `json:"name"`
			Type  string          `json:"type"`
			Query json.RawMessage `json:"query"`
		} `json:"list"`
	} `json:"templating"`
	Panels []struct {
		ID         int    `json:"id"`
		Type       string `json:"type"`
		Title      string `json:"title"`
		Datasource struct {
			UID string `json:"uid"`
		} `json:"datasource"`
		GridPos struct{ H, W, X, Y int } `json:"gridPos"`
		Targets []struct {
			RefID string `json:"refId"`
			Expr  string `json:"expr"`
		} `json:"targets"`
	} `json:"panels"`
}

// Grafana's server is not among the packages that tests can have. So what it would refuse, or draw wrongly, is looked for: ids and places that collide,
// variables and data sources that are not declared, and queries for what is not exported.
func TestDashboardAsksForMetricsThatThereAre(t *testing.T) {
	t.Parallel()
	var d dashboard
	if err := json.Unmarshal([]byte(readMonitoring(t, "grafana-dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	if d.Title == "" || d.UID == "" || d.SchemaVersion < 36 {
		t.Errorf("title %q, uid %q, schema %d", d.Title, d.UID, d.SchemaVersion)
	}
	names := exported(t, readMonitoring(t, "prometheus-rules.yml"))
	variables := map[string]bool{"__rate_interval": true}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
		if v.Type == "query" {
			checkExpression(t, v.Name, string(v.Query), names)
		}
	}
	if !variables["datasource"] {
		t.Error("no variable for the data source")
	}
	ids, rows, taken, asked := map[int]bool{}, []string{}, map[[2]int]string{}, map[string]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.H < 1 {
			t.Errorf("%s: id %d or place %v", p.Title, p.ID, p.GridPos)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if taken[at] != "" {
					t.Errorf("%s lies on %s", p.Title, taken[at])
				}
				taken[at] = p.Title
			}
		}
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		if p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("%s: data source %q, %d queries", p.Title, p.Datasource.UID, len(p.Targets))
		}
		for _, q := range p.Targets {
			checkExpression(t, p.Title, q.Expr, names)
			for _, m := range selector.FindAllStringSubmatch(q.Expr, -1) {
				asked[m[1]] = true
			}
			for _, m := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
				if !variables[m[1]] {
					t.Errorf("%s: no variable %s", p.Title, m[1])
				}
			}
		}
	}
	for _, row := range []string{"Traffic", "Logins", "Refresh", "Health of grants", "Vault", "Audit"} {
		if !slices.Contains(rows, row) {
			t.Errorf("no row %q", row)
		}
	}
	for name := range maps.Keys(names) {
		base := regexp.MustCompile(`_(sum|count|bucket)$`).ReplaceAllString(name, "")
		shown := slices.ContainsFunc(slices.Collect(maps.Keys(asked)), func(a string) bool { return strings.HasPrefix(a, base) })
		if !shown && !strings.Contains(name, ":") && !strings.HasSuffix(name, "_interval_seconds") {
			t.Errorf("%s is on no panel", name)
		}
	}
}
