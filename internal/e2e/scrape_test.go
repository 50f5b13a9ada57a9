package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// series are the gateway's metrics at one moment, as Prometheus keeps them: by name and labels, in the order of their names.
type series map[string]float64

// scrape reads the gateway's metrics.
func scrape(t *testing.T, w *testenv.World) series {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(get(t, w.AdminURL()+"/metrics")))
	if err != nil {
		t.Fatal(err)
	}
	s := make(series)
	for name, f := range families {
		if !strings.HasPrefix(name, "caddy_oauth_proxy_") {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := make(map[string]string)
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			s.add(name, labels, m)
		}
	}
	return s
}

func (s series) add(name string, labels map[string]string, m *dto.Metric) {
	switch {
	case m.GetCounter() != nil:
		s[seriesName(name, labels)] = m.GetCounter().GetValue()
	case m.GetGauge() != nil:
		s[seriesName(name, labels)] = m.GetGauge().GetValue()
	case m.GetHistogram() != nil:
		s[seriesName(name+"_sum", labels)] = m.GetHistogram().GetSampleSum()
		s[seriesName(name+"_count", labels)] = float64(m.GetHistogram().GetSampleCount())
		for _, b := range m.GetHistogram().GetBucket() {
			labels["le"] = fmt.Sprint(b.GetUpperBound())
			s[seriesName(name+"_bucket", labels)] = float64(b.GetCumulativeCount())
		}
	}
}

// seriesName is a series as PromQL has it.
func seriesName(name string, labels map[string]string) string {
	pairs := make([]string, 0, len(labels))
	for _, l := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, fmt.Sprintf("%s=%q", l, labels[l]))
	}
	return name + "{" + strings.Join(pairs, ",") + "}"
}

// of is the sum of all series of a metric that have these labels, each written as in PromQL.
func (s series) of(name string, labels ...string) (sum float64) {
	for k, v := range s {
		if strings.HasPrefix(k, "caddy_oauth_proxy_"+name+"{") && !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(k, l) }) {
			sum += v
		}
	}
	return sum
}
