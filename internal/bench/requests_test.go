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

// BenchmarkRequests compares authenticated tools/call requests with plain reverse_proxy.
func BenchmarkRequests(b *testing.B) {
	upstream := startUpstream(b)
	targets := []*target{
		start(b, upstream, options{name: "`reverse_proxy`"}),
		start(b, upstream, options{name: "gateway, bbolt", gateway: true, grants: *grants, every: grantsOfUser}),
		start(b, upstream, options{name: "gateway, PostgreSQL", gateway: true, postgres: true, grants: *grants, every: grantsOfUser}),
		start(b, upstream, options{name: "`reverse_proxy` with `log`", lines: true}),
		start(b, upstream, options{name: "gateway, bbolt, a line per request", gateway: true, lines: true, grants: *grants, every: grantsOfUser}),
	}
	against := []int{0, 0, 0, 0, 3}
	loads := make([]*load, len(targets))
	for i, t := range targets {
		loads[i] = newLoad(b, t.address(), t.path, t.access(), *clients)
		loads[i].each(b, t.access()) // the first use of each token is another matter
	}
	samples := rounds(b, targets, loads)
	var table strings.Builder
	table.WriteString("| target | requests/s | of plain (middle half) | p50 | p99 | of plain | p99.9 | CPU per request | of plain | allocations | bytes | memory |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
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
	}
	report(b, "requests", table.String())
	if *keep != "" {
		targets[1].profile(b, loads[1], 8*time.Second)
	}
	b.ReportMetric(0, "ns/op")
	bbolt, _, _ := median(ratios(samples[1], samples[0], rateOf))
	b.ReportMetric(bbolt, "rate-ratio")
}
