package watch

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// watchSlowly watches grants, and holds each call up until the returned channel of releases gives.
func watchSlowly(t *testing.T, ws *Watchers) (calls chan string, release chan struct{}) {
	t.Helper()
	calls, release = make(chan string, 2*MaxUntold), make(chan struct{})
	ws.Watch(tokenstore.KindGrant, func(id string) {
		calls <- id
		<-release
	})
	return calls, release
}

func told(t *testing.T, calls <-chan string) string {
	t.Helper()
	select {
	case id := <-calls:
		return id
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was told")
		return ""
	}
}

func TestAllThatWasMissedStandsForWhatWaits(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	defer close(closed)
	ws := New(closed)
	calls, release := watchSlowly(t, ws)
	ws.Tell(tokenstore.KindGrant, "first")
	told(t, calls)
	ws.Tell(tokenstore.KindGrant, "waits")
	ws.TellAll()
	ws.Tell(tokenstore.KindGrant, "after")
	close(release)
	if id := told(t, calls); id != "" {
		t.Errorf("told of %q; want all, which what waits is part of", id)
	}
	ws.Tell(tokenstore.KindAccount, "other kind")
	ws.Tell(tokenstore.KindGrant, "last")
	if id := told(t, calls); id != "last" {
		t.Errorf("told of %q; want only what came later", id)
	}
}

func TestMoreThanCanWaitIsAll(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	defer close(closed)
	ws := New(closed)
	calls, release := watchSlowly(t, ws)
	ws.Tell(tokenstore.KindGrant, "first")
	told(t, calls)
	for i := range MaxUntold + 1 {
		ws.Tell(tokenstore.KindGrant, fmt.Sprint(i))
	}
	close(release)
	if id := told(t, calls); id != "" {
		t.Errorf("told of %q; want all", id)
	}
}

func TestEndIsBounded(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	ws := New(closed)
	calls, release := watchSlowly(t, ws)
	ws.Tell(tokenstore.KindGrant, "a")
	told(t, calls)
	close(closed)
	if late := time.After(20 * time.Millisecond); ws.End(late) {
		t.Error("a call that has not ended counts as ended")
	}
	close(release)
	if !ws.End(time.After(10 * time.Second)) {
		t.Error("the watcher did not end")
	}
}

func TestWatchersThatStoppedAreForgotten(t *testing.T) {
	t.Parallel()
	ws := New(make(chan struct{}))
	var stops []func()
	for range 10 {
		stops = append(stops, ws.Watch(tokenstore.KindGrant, func(string) {}))
	}
	slices.Reverse(stops)
	for _, stop := range stops {
		stop()
		stop()
	}
	if n := ws.Len(); n != 0 {
		t.Errorf("%d watchers are kept", n)
	}
}
