package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// parallel is how many clients refresh at the same time.
var parallel = []int{1, 2, 4, 8, 16, 32, 64}

// BenchmarkIssuance measures how many gateway tokens are issued in a second, each by a refresh of a grant of its own that is on the disk before it is answered.
func BenchmarkIssuance(b *testing.B) {
	upstream := startUpstream(b, false)
	most := parallel[len(parallel)-1]
	n := min(*grants, 10_000) // of which only those that are refreshed count
	targets := []*target{
		start(b, upstream, options{name: "bbolt", gateway: true, grants: n, every: n / most}),
		start(b, upstream, options{name: "PostgreSQL", gateway: true, postgres: true, grants: n, every: n / most}),
	}
	refreshers := make([][]*refresher, len(targets))
	for i, t := range targets {
		for n := range most {
			c, err := dial(b, t.address())
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = c.conn.Close() })
			refreshers[i] = append(refreshers[i], &refresher{client: c, address: t.address(), credentials: t.issued[n]})
		}
	}
	rates, cpus, tooks := make([][][]float64, len(targets)), make([][]float64, len(targets)), make([][][]float64, len(targets))
	for i := range targets {
		rates[i], tooks[i] = make([][]float64, len(parallel)), make([][]float64, len(parallel))
	}
	for round := 0; b.Loop(); round++ {
		for step := range parallel {
			step = (step + round) % len(parallel)
			for i, t := range targets {
				before := t.cost(b)
				began := time.Now()
				took := refreshAll(b, refreshers[i][:parallel[step]])
				elapsed := time.Since(began)
				rates[i][step] = append(rates[i][step], float64(len(took))/elapsed.Seconds())
				tooks[i][step] = append(tooks[i][step], float64(quantile(took, 0.5))/1e6)
				if parallel[step] == most {
					cpus[i] = append(cpus[i], float64(t.cost(b).cpu-before.cpu)/1e3/float64(len(took)))
				}
			}
		}
	}
	var table strings.Builder
	table.WriteString("| clients |")
	for _, t := range targets {
		fmt.Fprintf(&table, " tokens/s, %s | of one client (middle half) | p50 |", t.name)
	}
	table.WriteString("\n|---|" + strings.Repeat("---|---|---|", len(targets)) + "\n")
	var last float64
	for step, n := range parallel {
		fmt.Fprintf(&table, "| %d |", n)
		for i := range targets {
			rate, _, _ := median(rates[i][step])
			took, _, _ := median(tooks[i][step])
			of := make([]float64, len(rates[i][step]))
			for round := range of {
				of[round] = rates[i][step][round] / rates[i][0][round]
			}
			times, low, high := median(of)
			fmt.Fprintf(&table, " %.0f | %.1f (%.1f–%.1f) | %.1f ms |", rate, times, low, high, took)
			if i == 0 {
				last = times
			}
		}
		table.WriteByte('\n')
	}
	for i, t := range targets {
		cpu, _, _ := median(cpus[i])
		fmt.Fprintf(&table, "\nCPU of Caddy per token with %d clients, %s: %.0f µs.", most, t.name, cpu)
	}
	table.WriteByte('\n')
	report(b, "issuance", table.String())
	if *keep != "" {
		done := make(chan error, 1)
		go func() { done <- targets[0].fetch(b, "/debug/pprof/profile?seconds=5", *keep) }()
		for range 6*time.Second/(*turn) + 1 {
			refreshAll(b, refreshers[0])
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(last, "64-to-1")
}

// refresher is a client that refreshes its tokens.
type refresher struct {
	*client
	credentials
	address string
}

func refreshAll(b *testing.B, all []*refresher) []time.Duration {
	b.Helper()
	l := new(load)
	var working sync.WaitGroup
	end := time.Now().Add(*turn)
	for _, r := range all {
		l.conns = append(l.conns, r.client)
		working.Go(func() {
			r.took = r.took[:0]
			for began := time.Now(); began.Before(end); {
				if err := r.refresh(); err != nil {
					b.Errorf("refresh: %v", err)
					return
				}
				now := time.Now()
				r.took = append(r.took, now.Sub(began))
				began = now
			}
		})
	}
	working.Wait()
	return l.took(b)
}

func (r *refresher) refresh() error {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {r.Refresh}, "client_id": {r.ClientID}, "client_secret": {r.Secret}}.Encode()
	r.out = fmt.Appendf(r.out[:0], "POST /api/v1/oauth-proxy/demo/token HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s",
		strings.Replace(r.address, "127.0.0.1", "localhost", 1), len(form), form)
	if _, err := r.conn.Write(r.out); err != nil {
		return err
	}
	first, length, err := readHead(r.in)
	if err != nil {
		return err
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r.in, body); err != nil {
		return err
	}
	var issued struct {
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal(body, &issued); err != nil || !strings.HasPrefix(first, "HTTP/1.1 200 ") || issued.Refresh == "" || issued.Refresh == r.Refresh {
		return fmt.Errorf("%s: %.300s", first, body)
	}
	r.Refresh = issued.Refresh
	return nil
}
