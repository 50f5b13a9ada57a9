//go:build links

package docs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	linkTime  = 20 * time.Second // for each try
	linkTries = 3
	linkPause = 2 * time.Second // before another, twice as long before the third
	linksOnce = 4               // so many are asked at a time
)

// What asking for a link comes to.
var (
	errDead        = errors.New("is gone")                       // the server says so
	errUnreachable = errors.New("cannot be reached from here")   // no server has answered
	errUnclear     = errors.New("is there, and does not answer") // a server that refuses programs, or is broken for now
)

// askLink asks for a page, without its fragment: by HEAD, and by GET where that is no good.
func askLink(ctx context.Context, client *http.Client, link string, pause time.Duration) error {
	link, _, _ = strings.Cut(link, "#")
	var last error
	for try := range linkTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause << (try - 1)):
			}
		}
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			status, err := askOnce(ctx, client, method, link)
			switch {
			case err != nil:
				last = fmt.Errorf("%w: %w", errUnreachable, err)
			case status < http.StatusMultipleChoices:
				return nil
			case method == http.MethodGet && (status == http.StatusNotFound || status == http.StatusGone):
				return fmt.Errorf("%w: status %d", errDead, status)
			default:
				last = fmt.Errorf("%w: status %d", errUnclear, status)
			}
			if err != nil {
				break // GET would fare no better
			}
		}
	}
	return last
}

func askOnce(ctx context.Context, client *http.Client, method, link string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, linkTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, link, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", "Mozilla/5.0 (compatible; caddy-oauth-proxy link check)")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode, nil
}

// Links to this project's own repository lead nowhere before it is published. Those of alerts are checked in caddyoauthproxy, against the runbooks.
const ownRepository = "https://github.com/caddy-oauth-proxy/caddy-oauth-proxy"

// What cannot be reached from here is listed, and is no failure: nobody mends a page for a network that is closed.
func TestExternalLinksAreAlive(t *testing.T) {
	links, _ := addresses(t)
	var mu sync.Mutex
	found := make(map[error][]string)
	var work sync.WaitGroup
	slots := make(chan struct{}, linksOnce)
	for _, link := range slices.Sorted(maps.Keys(links)) {
		if strings.HasPrefix(link, ownRepository) {
			continue
		}
		work.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			err := askLink(t.Context(), http.DefaultClient, link, linkPause)
			kind := errUnclear
			for _, k := range []error{errDead, errUnreachable, nil} {
				if errors.Is(err, k) {
					kind = k
				}
			}
			mu.Lock()
			defer mu.Unlock()
			found[kind] = append(found[kind], fmt.Sprintf("%s: %s %v", links[link][0], link, err))
		})
	}
	work.Wait()
	for _, line := range slices.Sorted(slices.Values(found[errDead])) {
		t.Error(line)
	}
	for _, line := range slices.Concat(slices.Sorted(slices.Values(found[errUnclear])), slices.Sorted(slices.Values(found[errUnreachable]))) {
		t.Log(line)
	}
	t.Logf("%d links: %d good, %d gone, %d to be looked at by a person, %d not reached from here", len(links),
		len(found[nil]), len(found[errDead]), len(found[errUnclear]), len(found[errUnreachable]))
	if len(found) == 1 && found[errUnreachable] != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("none of the links can be reached, and in CI they must be")
		}
		t.Skip("none of the links can be reached from here")
	}
}

func TestALinkIsDeadOnlyIfItsServerSaysSo(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	mux := http.NewServeMux()
	answer := func(path string, head, get int) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			tries.Add(1)
			w.WriteHeader(map[bool]int{true: head, false: get}[r.Method == http.MethodHead])
		})
	}
	answer("/good", 200, 200)
	answer("/nohead", 405, 200)
	answer("/headgone", 404, 200)
	answer("/gone", 404, 404)
	answer("/longgone", 410, 410)
	answer("/forbidden", 403, 403)
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		if tries.Add(1) < 4 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.Handle("/moved", http.RedirectHandler("/gone", http.StatusMovedPermanently))
	server := httptest.NewServer(mux)
	defer server.Close()
	closed := httptest.NewServer(mux)
	closed.Close()
	for link, want := range map[string]error{
		server.URL + "/good#part": nil, server.URL + "/nohead": nil, server.URL + "/headgone": nil,
		server.URL + "/gone": errDead, server.URL + "/longgone": errDead, server.URL + "/moved": errDead,
		server.URL + "/forbidden": errUnclear,
		closed.URL + "/good":      errUnreachable,
	} {
		if err := askLink(t.Context(), server.Client(), link, time.Millisecond); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", link, err, want)
		}
	}
	tries.Store(0)
	if err := askLink(t.Context(), server.Client(), server.URL+"/slow", time.Millisecond); err != nil {
		t.Errorf("a server that recovers: %v", err)
	}
}
