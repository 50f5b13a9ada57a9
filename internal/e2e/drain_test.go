package e2e

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// Apps stop in no particular order, so this is seen again and again.
func TestGatewayAnswersAllThroughItsShutdownDelay(t *testing.T) {
	t.Parallel()
	const delay = 4 * time.Second
	w := testenv.Start(t, testenv.Options{
		TokenLife: 2 * time.Second, // so that what is called in the delay needs a refresh
		Caddyfile: func(w *testenv.World) string {
			return strings.Replace(w.CaddyfileWith(""), "auto_https off", "auto_https off\n\tshutdown_delay 4s\n\tgrace_period 10s", 1)
		},
	})
	b := w.NewPlainBot(t)
	b.Client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // each call is by a connection of its own
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	for range 4 {
		stream := counting(t, w, testenv.Stateless, 100, 100)
		becomes(t, w, http.StatusOK)
		refreshes := w.Provider.Stats().Refreshes
		began := time.Now()
		left := make(chan time.Duration, 1)
		go func() { left <- w.Terminate() }()
		becomes(t, w, http.StatusServiceUnavailable)
		if took := time.Since(began); took > delay/2 {
			t.Errorf("not ready %s after it was told to end", took)
		}
		for time.Since(began) < delay*3/4 {
			works(t, b)
			if status, text := ready(t, w); status != http.StatusServiceUnavailable || text != "shutting down" {
				t.Errorf("ready says %d %s", status, text)
			}
			if live := get(t, w.URL+"/oauth/live"); live != "live\n" {
				t.Errorf("live says %q", live)
			}
			select {
			case err := <-stream:
				t.Fatalf("a stream ended %s after the signal: %v", time.Since(began), err)
			default:
			}
		}
		if n := w.Provider.Stats().Refreshes; n == refreshes {
			t.Error("nothing was refreshed meanwhile")
		}
		if took := <-left; took < delay || took > delay+5*time.Second {
			t.Errorf("it left after %s", took)
		}
		if err := <-stream; err == nil {
			t.Error("a call of 10 s finished")
		}
		w.Run()
		works(t, b)
	}
	if s := w.Provider.Stats(); s.Replays != 0 || s.Refused != 0 || s.Logins != 5 { // the bot's, and one for each stream
		t.Errorf("at the provider: %+v", s)
	}
}

func TestExitEndsStreamsOfEarlierConfigsToo(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	stream := counting(t, w, testenv.Stateless, 100, 1000)
	for _, ttl := range []string{"50m", "51m"} {
		if err := w.Reload(w.CaddyfileWith("access_token_ttl " + ttl)); err != nil {
			t.Fatal(err)
		}
	}
	if took := w.Terminate(); took > 10*time.Second {
		t.Errorf("leaving took %s", took)
	}
	if err := <-stream; err == nil {
		t.Error("a call of 100 s finished")
	}
}

func TestBalancerThatAsksWhetherNodesAreReadyLosesNoRequestToOneThatEnds(t *testing.T) {
	t.Parallel()
	c := testenv.StartCluster(t, testenv.ClusterOptions{Nodes: 2, ShutdownDelay: "4s", Options: testenv.Options{TokenLife: 2 * time.Second}})
	b := c.Node(1).NewPlainBot(t)
	b.Login(t, testenv.NewBrowser(testenv.Alice))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var calls atomic.Int64
	var work sync.WaitGroup
	for range 6 {
		work.Go(func() {
			for ctx.Err() == nil {
				who, err := b.WhoAmI(t.Context())
				calls.Add(1)
				if err != nil || !strings.Contains(who, "You are alice") {
					t.Errorf("under load: %q, %v", who, err)
					return
				}
			}
		})
	}
	for range 2 {
		for _, node := range c.Nodes {
			node.Terminate()
			b.Refresh(t)
			node.Run()
			b.Refresh(t)
		}
	}
	stop()
	work.Wait()
	t.Logf("%d calls while nodes came and went", calls.Load())
	if s := c.Provider.Stats(); s.Replays != 0 || s.Refused != 0 || s.Logins != 1 {
		t.Errorf("at the provider: %+v", s)
	}
}
