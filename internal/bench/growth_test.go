package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// inUse is how many grants the requests of BenchmarkGrowth are of, whatever the vault's size.
const inUse = 1000

// BenchmarkGrowth compares vaults of several sizes: requests of the same number of grants, the time of a start, and the memory.
func BenchmarkGrowth(b *testing.B) {
	upstream := startUpstream(b, false)
	targets := []*target{start(b, upstream, options{name: "`reverse_proxy`"})}
	for size := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil || n < inUse {
			b.Fatalf("-sizes %q: numbers from %d on, with commas", *sizes, inUse)
		}
		begun := time.Now()
		targets = append(targets, start(b, upstream, options{name: thousands(n), gateway: true, grants: n, every: n / inUse}))
		b.Logf("%d grants were stored in %s", n, time.Since(begun).Round(time.Second))
	}
	targets[0].asGateway(targets[1])
	loads := make([]*load, len(targets))
	started := make([][]float64, len(targets))
	for i, t := range targets {
		for range 3 {
			started[i] = append(started[i], t.restart(b).Seconds())
		}
		loads[i] = newLoad(b, t.address(), t.path, t.access(), *clients)
		loads[i].each(b, t.access())
	}
	samples := rounds(b, targets, loads)
	var table strings.Builder
	table.WriteString("| grants | file | start to first answer | requests/s | of plain | of the smallest (middle half) | CPU per request | memory | above plain | the same, with pages of the file |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for i, t := range targets {
		s := samples[i]
		plain, _, _ := median(ratios(s, samples[0], rateOf))
		least, low, high := median(ratios(s, samples[1], rateOf))
		took, _, _ := median(started[i])
		memory := func(of func(sample) int) float64 {
			return middle(s, func(s sample) float64 { return float64(of(s)) }) / (1 << 20)
		}
		anonymous, all := func(s sample) int { return s.anonymous }, func(s sample) int { return s.all }
		above := memory(anonymous) - middle(samples[0], func(s sample) float64 { return float64(s.anonymous) })/(1<<20)
		file := ""
		if i > 0 {
			info, err := os.Stat(t.w.VaultPath())
			if err != nil {
				b.Fatal(err)
			}
			file = fmt.Sprintf("%d MiB", info.Size()>>20)
		}
		fmt.Fprintf(&table, "| %s | %s | %.2f s | %.0f | %.3f | %.3f (%.3f–%.3f) | %.1f µs | %.0f MiB | %.0f MiB | %.0f MiB |\n", t.name, file, took,
			middle(s, rateOf), plain, least, low, high, middle(s, cpuOf)/1e3, memory(anonymous), above, memory(all))
	}
	report(b, "growth", table.String())
	b.ReportMetric(0, "ns/op")
	last, _, _ := median(ratios(samples[len(samples)-1], samples[1], rateOf))
	b.ReportMetric(last, "rate-ratio")
}

// restart ends a target's Caddy and starts it again, and says how long it took until it answered a call.
func (t *target) restart(b *testing.B) time.Duration {
	b.Helper()
	t.w.Terminate()
	began := time.Now()
	t.w.Launch()
	var token string
	if len(t.issued) > 0 {
		token = t.issued[0].Access
	}
	for deadline := began.Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		err := tryCall(b, t, token)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s does not answer after its start: %v", t.name, err)
		}
	}
	took := time.Since(began)
	t.w.Await()
	return took
}

// thousands writes a number for people.
func thousands(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
