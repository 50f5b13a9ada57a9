package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample is what was measured of a target in a round.
type sample struct {
	rate           float64 // requests a second
	p50, p99, p999 time.Duration
	cpu            time.Duration // of Caddy, per request
	allocs, bytes  float64       // per request
	anonymous, all int           // memory at the end, in bytes
}

// measure measures one turn of a target.
func (l *load) measure(b *testing.B, t *target) sample {
	b.Helper()
	l.run(b, *turn/10)
	before := t.cost(b)
	began := time.Now()
	took := l.run(b, *turn)
	elapsed := time.Since(began)
	after := t.cost(b)
	n := float64(len(took))
	return sample{
		rate: n / elapsed.Seconds(), p50: quantile(took, 0.5), p99: quantile(took, 0.99), p999: quantile(took, 0.999),
		cpu: time.Duration(float64(after.cpu-before.cpu) / n), allocs: (after.allocs - before.allocs) / n, bytes: (after.bytes - before.bytes) / n,
		anonymous: after.anonymous, all: after.all,
	}
}

// rounds measures all targets in turns, each round in another order, and returns what was measured of each.
func rounds(b *testing.B, targets []*target, loads []*load) [][]sample {
	b.Helper()
	samples := make([][]sample, len(targets))
	for round := 0; b.Loop(); round++ {
		for i := range targets {
			i = (i + round) % len(targets)
			samples[i] = append(samples[i], loads[i].measure(b, targets[i]))
		}
	}
	return samples
}

// ratios are the quotients of two targets, round by round.
func ratios(of, to []sample, value func(sample) float64) []float64 {
	out := make([]float64, len(of))
	for i := range of {
		out[i] = value(of[i]) / value(to[i])
	}
	return out
}

// median of values, and between which the middle half lies.
func median(values []float64) (m, low, high float64) {
	v := slices.Sorted(slices.Values(values))
	at := func(q float64) float64 { // between the two nearest
		x := q * float64(len(v)-1)
		i := int(x)
		if i+1 >= len(v) {
			return v[len(v)-1]
		}
		return v[i] + (x-float64(i))*(v[i+1]-v[i])
	}
	return at(0.5), at(0.25), at(0.75)
}

func middle(samples []sample, value func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = value(s)
	}
	m, _, _ := median(values)
	return m
}

func rateOf(s sample) float64 { return s.rate }
func p99Of(s sample) float64  { return float64(s.p99) }
func cpuOf(s sample) float64  { return float64(s.cpu) }

// BenchmarkRequests compares authenticated tools/call requests with plain reverse_proxy. Each target has a process of its own.
func BenchmarkRequests(b *testing.B) {
	upstreams := map[bool]string{false: startUpstream(b, false), true: startUpstream(b, true)}
	gateway := options{gateway: true, grants: *grants, every: grantsOfUser}
	as := func(name string, change func(*options)) options {
		o := gateway
		o.name = name
		change(&o)
		return o
	}
	plan := []options{
		{name: "`reverse_proxy`"},
		as("gateway, bbolt", func(*options) {}),
		as("gateway, bbolt, every grant in use", func(o *options) { o.every = 1 }),
		as("gateway, PostgreSQL", func(o *options) { o.postgres = true }),
		{name: "`reverse_proxy` with `log`", lines: true},
		as("gateway, bbolt, a line per request", func(o *options) { o.lines = true }),
		{name: "`reverse_proxy`, server of the Go SDK", sdk: true},
		as("gateway, bbolt, server of the Go SDK", func(o *options) { o.sdk = true }),
	}
	if *only > 0 {
		plan = plan[:max(2, min(*only, len(plan)))]
	}
	against := []int{0, 0, 0, 0, 0, 4, 0, 6}
	targets := make([]*target, len(plan))
	for i, o := range plan {
		targets[i] = start(b, upstreams[o.sdk], o)
	}
	for i, o := range plan {
		if !o.gateway {
			targets[i].asGateway(targets[1])
		}
	}
	loads := make([]*load, len(targets))
	var first string
	for i, t := range targets {
		loads[i] = newLoad(b, t.address(), t.path, t.access(), *clients)
		fresh := loads[i].first(b, t)
		if i == 1 {
			first = fmt.Sprintf("\nThe first use of a token takes %.0f µs more of CPU than those that follow (bbolt).\n", fresh)
		}
	}
	samples := rounds(b, targets, loads)
	var table strings.Builder
	table.WriteString("| target | requests/s | of plain (middle half) | p50 | p99 | of plain | p99.9 | CPU per request | of plain | allocations | bytes | memory |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	bars := make([]bar, len(targets))
	for i, t := range targets {
		s, to := samples[i], samples[against[i]]
		rate, low, high := median(ratios(s, to, rateOf))
		p99, _, _ := median(ratios(s, to, p99Of))
		cpu, _, _ := median(ratios(s, to, cpuOf))
		ms := func(of func(sample) time.Duration) string {
			return fmt.Sprintf("%.2f ms", middle(s, func(s sample) float64 { return float64(of(s)) })/1e6)
		}
		fmt.Fprintf(&table, "| %s | %.0f | %.3f (%.3f–%.3f) | %s | %s | %.2f | %s | %.1f µs | %.2f | %.0f | %.1f kB | %.0f MiB |\n", t.name, middle(s, rateOf), rate, low, high,
			ms(func(s sample) time.Duration { return s.p50 }), ms(func(s sample) time.Duration { return s.p99 }), p99, ms(func(s sample) time.Duration { return s.p999 }),
			middle(s, cpuOf)/1e3, cpu, middle(s, func(s sample) float64 { return s.allocs }), middle(s, func(s sample) float64 { return s.bytes / 1e3 }),
			middle(s, func(s sample) float64 { return float64(s.anonymous) })/(1<<20))
		bars[i] = bar{t.name, middle(s, cpuOf) / 1e3}
	}
	report(b, "requests", table.String()+first)
	plot(b, "requests", "CPU of Caddy per request, in µs", bars)
	if k := *keep; k != "" {
		*keep = k + ".plain"
		targets[0].profile(b, loads[0], 10*(*turn))
		*keep = k
	}
	seen := traces(b, targets[1].profile(b, loads[1], 10*(*turn)))
	report(b, "steps", stepTable(seen, 20))
	if path := picture("flames"); path != "" {
		writeFlames(b, path, seen)
	}
	b.ReportMetric(0, "ns/op")
	bbolt, _, _ := median(ratios(samples[1], samples[0], rateOf))
	b.ReportMetric(bbolt, "rate-ratio")
}

// first sends a request with each token twice, and returns by how much CPU, in µs, the first took more.
func (l *load) first(b *testing.B, t *target) float64 {
	b.Helper()
	if len(l.tokens) == 0 {
		return 0
	}
	at := []time.Duration{t.cost(b).cpu}
	for range 2 {
		l.each(b, l.tokens)
		at = append(at, t.cost(b).cpu)
	}
	return float64((at[1]-at[0])-(at[2]-at[1])) / 1e3 / float64(len(l.tokens))
}
