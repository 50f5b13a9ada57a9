package e2e

import (
	"compress/gzip"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// spans is a collector of traces (OTLP over HTTP).
type spans struct {
	mu  sync.Mutex
	all []*trace.Span
	raw strings.Builder
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	raw, err := io.ReadAll(body)
	var export collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(raw, &export)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raw.Write(raw)
	for _, resource := range export.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			s.all = append(s.all, scope.GetSpans()...)
		}
	}
}

// named are the spans of a name.
func (s *spans) named(name string) (found []*trace.Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, span := range s.all {
		if span.GetName() == name {
			found = append(found, span)
		}
	}
	return found
}

// inTraceOf reports whether a span is in the trace of another span that has no parent here: that of a request.
func (s *spans) inTraceOf(span *trace.Span) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.all, func(root *trace.Span) bool {
		return len(root.GetParentSpanId()) == 0 && string(root.GetTraceId()) == string(span.GetTraceId())
	})
}

func attributes(span *trace.Span) map[string]string {
	told := make(map[string]string)
	for _, a := range span.GetAttributes() {
		told[a.GetKey()] = a.GetValue().GetStringValue()
		if a.GetValue().GetBoolValue() {
			told[a.GetKey()] = "true"
		}
	}
	return told
}

// tracedWorld exports its traces to the collector.
func tracedWorld(t *testing.T, o testenv.Options) (*testenv.World, *spans) {
	t.Helper()
	s := new(spans)
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	o.Site = "tracing"
	o.Env = []string{"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT=" + server.URL, "OTEL_BSP_SCHEDULE_DELAY=50", "OTEL_PROPAGATORS=tracecontext"}
	return testenv.Start(t, o), s
}

func TestTheGatewaysWorkIsPartOfTheRequestsTrace(t *testing.T) {
	t.Parallel()
	w, s := tracedWorld(t, testenv.Options{TokenLife: 2 * time.Second})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	want := map[string][]string{
		"oauth_proxy register":       {"step", "outcome", "proxy"},
		"oauth_proxy authorize":      {"step", "outcome", "proxy"},
		"oauth_proxy consent":        {"step", "outcome", "proxy"},
		"oauth_proxy callback":       {"step", "outcome", "proxy"},
		"oauth_proxy token":          {"step", "outcome", "proxy", "grant"},
		"oauth_proxy authenticate":   {"proxy", "grant"},
		"oauth_proxy upstream token": {"proxy", "grant", "provider"},
		"oauth_proxy refresh":        {"provider", "account"},
		"oauth_proxy vault apply":    {},
	}
	testenv.Eventually(t, "all spans", func() bool {
		_, _ = b.WhoAmI(t.Context())
		return !slices.ContainsFunc(slices.Collect(maps.Keys(want)), func(name string) bool { return len(s.named(name)) == 0 })
	})
	testenv.Eventually(t, "a token that a refresh was waited for", func() bool {
		w.Provider.ExpireTokens()
		_, _ = b.WhoAmI(t.Context())
		return slices.ContainsFunc(s.named("oauth_proxy upstream token rejected"), func(span *trace.Span) bool {
			told := attributes(span)
			return told["oauth_proxy.proxy"] == "demo" && (told["oauth_proxy.refreshed"] == "true" || told["oauth_proxy.waited"] == "true")
		})
	})
	for name, keys := range want {
		span := s.named(name)[0]
		testenv.Eventually(t, name+" to be in a request's trace", func() bool { return s.inTraceOf(span) })
		told := attributes(span)
		for _, key := range keys {
			if told["oauth_proxy."+key] == "" {
				t.Errorf("%s has no %s: %v", name, key, told)
			}
		}
		for key := range told {
			if !slices.Contains(append(keys, "refreshed", "waited"), strings.TrimPrefix(key, "oauth_proxy.")) {
				t.Errorf("%s tells %s", name, key)
			}
		}
	}
}

// Nothing of the gateway's, nor of Caddy's own spans, is a secret; and providers are not told which requests belong together.
func TestTracesHoldNoSecretsAndProvidersAreToldOfNone(t *testing.T) {
	t.Parallel()
	w, s := tracedWorld(t, testenv.Options{TokenLife: 2 * time.Second})
	b := w.NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	var traced sync.Map
	w.Provider.SetFault(nil)
	w.Provider.ObserveHeaders(func(path string, h http.Header) {
		if h.Get("Traceparent") != "" {
			traced.Store(path, true)
		}
	})
	b.Login(t, testenv.NewBrowser(testenv.Bob))
	testenv.Eventually(t, "a refresh", func() bool { _, _ = b.WhoAmI(t.Context()); return len(s.named("oauth_proxy refresh")) > 0 })
	traced.Range(func(path, _ any) bool { t.Errorf("the provider got a traceparent at %s", path); return true })
	if seen := w.MCP.Requests(); seen[len(seen)-1].Header.Get("Traceparent") == "" {
		t.Error("the MCP server got no traceparent")
	}
	s.mu.Lock()
	raw := s.raw.String()
	s.mu.Unlock()
	for _, secret := range append(w.Provider.Issued(), b.Access(), b.Token(), b.Code, b.Verifier, b.Secret, testenv.ClientSecret, testenv.Alice.Email(), testenv.Bob.Email()) {
		if strings.Contains(raw, secret) {
			t.Errorf("%s stands in a trace", secret)
		}
	}
}
