package bbolt

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/watch"
)

// told waits for the next call of a watcher.
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

func watchGrants(t *testing.T, s *Store) <-chan string {
	t.Helper()
	calls := make(chan string, 2*watch.MaxUntold)
	t.Cleanup(s.Watch(tokenstore.KindGrant, func(id string) { calls <- id }))
	return calls
}

func TestWatchersAreToldOfWhatWasMadeAndNothingElse(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	calls := watchGrants(t, s)
	account := insert("account", nil)
	account.Row.Kind = tokenstore.KindAccount
	errs := commitTogether(s,
		[]tokenstore.Change{insert("a", nil), account, insert("b", nil)},
		[]tokenstore.Change{insert("c", nil), insert("a", nil)}, // loses
		[]tokenstore.Change{update("a", 2, nil)},
	)
	wantErrors(t, errs, nil, tokenstore.ErrConflict, nil)
	mustApply(t, s, insert("last", nil))
	var got []string
	for !slices.Contains(got, "last") {
		got = append(got, told(t, calls))
	}
	if want := []string{"a", "b", "a", "last"}; !slices.Equal(got, want) {
		t.Errorf("told of %q; want %q", got, want)
	}
}

func TestSlowWatcherIsToldThatItHasMissedChanges(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	calls, release := make(chan string, 2*watch.MaxUntold), make(chan struct{})
	stop := s.Watch(tokenstore.KindGrant, func(id string) {
		calls <- id
		<-release
	})
	defer stop()
	goOn := sync.OnceFunc(func() { close(release) })
	defer goOn()
	mustApply(t, s, insert("first", nil))
	told(t, calls)
	var changes []tokenstore.Change
	for i := range watch.MaxUntold {
		changes = append(changes, insert(fmt.Sprint(i), nil))
	}
	mustApply(t, s, changes...)
	mustApply(t, s, insert("one-more", nil), insert("and-another", nil))
	goOn()
	if id := told(t, calls); id != "" {
		t.Errorf("told of %q; want all", id)
	}
	mustApply(t, s, insert("after", nil))
	if id := told(t, calls); id != "after" {
		t.Errorf("told of %q; want what came after", id)
	}
}

// Of an Apply that gave up waiting, and was made all the same.
func TestWatchersAreToldOfLateChanges(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	calls := watchGrants(t, s)
	s.wait = 20 * time.Millisecond
	held, err := s.db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), insert("a", nil)); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Fatalf("Apply on a disk that does not answer = %v; want ErrUnavailable", err)
	}
	if err := held.Rollback(); err != nil {
		t.Fatal(err)
	}
	if id := told(t, calls); id != "a" {
		t.Errorf("told of %q", id)
	}
	s.wait = maxWait
}

// Whether changes show that a disk refused is not known.
func TestWatchersAreToldOfChangesThatTheDiskRefused(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	calls := watchGrants(t, s)
	s.db.MaxSize = 512 << 10 // stands for the disk
	if err := s.Apply(t.Context(), insert("huge", make([]byte, 1<<20))); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Fatalf("Apply on a full disk = %v; want ErrUnavailable", err)
	}
	if id := told(t, calls); id != "huge" {
		t.Errorf("told of %q", id)
	}
}

func TestCloseWaitsForWatchersInBoundedTime(t *testing.T) {
	t.Parallel()
	s, err := Open(newPath(t), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	called, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	stop := s.Watch(tokenstore.KindGrant, func(string) {
		once.Do(func() { close(called) })
		<-release
	})
	mustApply(t, s, insert("a", nil))
	<-called
	s.wait = 20 * time.Millisecond
	if err := s.Close(); !errors.Is(err, tokenstore.ErrUnavailable) {
		t.Errorf("Close beside a watcher that does not return = %v; want ErrUnavailable", err)
	}
	close(release)
	s.wait = maxWait
	if err := s.Close(); err != nil {
		t.Errorf("Close afterwards = %v; want nil", err)
	}
	stop()
}
