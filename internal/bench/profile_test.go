package bench

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// profile takes a CPU profile of a target while it is called.
func (t *target) profile(b *testing.B, l *load, for_ time.Duration) (path string) {
	b.Helper()
	done := make(chan error, 1)
	path = cmp.Or(*keep, filepath.Join(t.w.Dir(), "cpu.pprof"))
	for_ = max(for_, time.Second)
	go func() { done <- t.fetch(b, fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(for_.Seconds())), path) }()
	l.run(b, for_+500*time.Millisecond)
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if *keep != "" {
		if err := t.fetch(b, "/debug/pprof/allocs", *keep+".allocs"); err != nil {
			b.Fatal(err)
		}
	}
	return path
}

func (t *target) fetch(b *testing.B, path, to string) error {
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, t.w.AdminURL()+path, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o600)
}
