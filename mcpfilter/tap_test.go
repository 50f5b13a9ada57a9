package mcpfilter_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// tap stands between two parties that speak HTTP/1.1, and keeps every byte that passes.
type tap struct {
	// URL is where the server behind the tap is reached.
	URL string

	mu          sync.Mutex
	connections []*tapped
}

// tapped is one connection.
type tapped struct{ sent, answered logBuffer }

// message is a request or a response as it was on the wire. Of its body the framing is undone, and nothing else.
type message struct {
	line    string
	header  http.Header
	body    []byte
	trailer http.Header
	whole   bool // its end was seen
}

// passage is a request and its response.
type passage struct{ request, response message }

// startTap taps the way to a server, given by its URL.
func startTap(t *testing.T, server string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	tap := &tap{URL: "http://" + l.Addr().String()}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go tap.connect(client, strings.TrimPrefix(server, "http://"))
		}
	}()
	return tap
}

func (tap *tap) connect(client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	kept := new(tapped)
	tap.mu.Lock()
	tap.connections = append(tap.connections, kept)
	tap.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.MultiWriter(&kept.sent, server), client)
		_ = server.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(io.MultiWriter(&kept.answered, client), server)
	_ = client.(*net.TCPConn).CloseWrite()
	<-done
}

// passages returns what has passed so far, by the X-Passage header of the requests.
func (tap *tap) passages(t *testing.T) map[string]passage {
	t.Helper()
	tap.mu.Lock()
	connections := slices.Clone(tap.connections)
	tap.mu.Unlock()
	all := make(map[string]passage)
	for _, c := range connections {
		requests, responses := bufio.NewReader(strings.NewReader(c.sent.String())), bufio.NewReader(strings.NewReader(c.answered.String()))
		for {
			request, ok := readMessage(t, requests, nil)
			if !ok {
				break
			}
			id := request.header.Get("X-Passage")
			if _, twice := all[id]; twice || id == "" {
				t.Errorf("passage %q: %s has no number of its own", id, request.line)
			}
			response, _ := readMessage(t, responses, &request)
			all[id] = passage{request, response}
		}
	}
	return all
}

// readMessage reads a request, or the response to one.
func readMessage(t *testing.T, r *bufio.Reader, asked *message) (m message, ok bool) {
	t.Helper()
	var body io.ReadCloser
	var trailer *http.Header
	if asked == nil {
		req, err := http.ReadRequest(r)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) { // all that has come so far
				t.Errorf("read request: %v", err)
			}
			return m, false
		}
		m.line, m.header, body, trailer = req.Method+" "+req.RequestURI+" "+req.Proto, req.Header, req.Body, &req.Trailer
		m.header.Set("Host", req.Host)
	} else {
		method, _, _ := strings.Cut(asked.line, " ")
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return m, false // cut before its header
		}
		if 100 <= res.StatusCode && res.StatusCode < 200 {
			return readMessage(t, r, asked)
		}
		m.line, m.header, body, trailer = fmt.Sprint(res.Proto, " ", res.StatusCode), res.Header, res.Body, &res.Trailer
	}
	var err error
	m.body, err = io.ReadAll(body)
	m.whole = err == nil
	m.trailer = *trailer
	return m, true
}

// answered says how many requests have at least the header of their answer.
func (tap *tap) answered(t *testing.T) int {
	t.Helper()
	n := 0
	for _, p := range tap.passages(t) {
		if p.response.line != "" {
			n++
		}
	}
	return n
}

// compareTaps fails the test unless what passed on both sides of the filter is the same: the requests in their order of numbers, path and all, every
// header but for those that the documentation names, and every byte of the bodies. before and after are the paths of the same thing on either side.
func compareTaps(t *testing.T, outside, inside *tap, before, after string) map[string]passage {
	t.Helper()
	requests, answers := documentedChanges(t)
	client, server := outside.passages(t), inside.passages(t)
	for id, c := range client {
		s, there := server[id]
		if !there {
			t.Errorf("%s: %s never reached the MCP server", id, c.request.line)
			continue
		}
		what := fmt.Sprintf("%s (%s → %s)", id, c.request.line, s.response.line)
		if want := strings.Replace(c.request.line, " "+before, " "+after, 1); s.request.line != want {
			t.Errorf("%s: the MCP server was asked %q, want %q", what, s.request.line, want)
		}
		if c.response.line != s.response.line {
			t.Errorf("%s: the client got %q", what, c.response.line)
		}
		compareHeaders(t, what+", request", requests, c.request.header, s.request.header)
		compareHeaders(t, what+", answer", answers, s.response.header, c.response.header)
		if len(s.request.trailer) != 0 {
			t.Errorf("%s: trailers went upstream: %v", what, s.request.trailer)
		}
		if !maps.EqualFunc(s.response.trailer, c.response.trailer, slices.Equal) {
			t.Errorf("%s: trailers: sent %v, arrived %v", what, s.response.trailer, c.response.trailer)
		}
		compareBodies(t, what+", request", c.request, s.request)
		compareBodies(t, what+", answer", s.response, c.response)
	}
	for id, s := range server {
		if _, there := client[id]; !there {
			t.Errorf("%s: no client sent %s", id, s.request.line)
		}
	}
	return client
}

func compareHeaders(t *testing.T, what string, documented headerChanges, sent, arrived http.Header) {
	t.Helper()
	for _, h := range []http.Header{sent, arrived} {
		for name := range h {
			tagged := strings.HasPrefix(documented.of(name), becomesTagged) && (arrived.Get(name) == "" || // where it means nothing any more
				strings.HasPrefix(sent.Get(name), arrived.Get(name)+".") || strings.HasPrefix(arrived.Get(name), sent.Get(name)+"."))
			if !slices.Equal(sent[name], arrived[name]) && (documented.of(name) == "" || strings.HasPrefix(documented.of(name), becomesTagged) && !tagged) {
				t.Errorf("%s: %s: sent %q, arrived %q", what, name, sent[name], arrived[name])
			}
		}
	}
}

// compareBodies compares bodies. Whoever ends a stream has not seen all that was sent.
func compareBodies(t *testing.T, what string, sent, arrived message) {
	t.Helper()
	if arrived.whole && !sent.whole {
		t.Errorf("%s: it broke off, and the end that arrived hides that", what)
	}
	if arrived.whole && !bytes.Equal(sent.body, arrived.body) || !bytes.HasPrefix(sent.body, arrived.body) {
		t.Errorf("%s: sent\n%q\narrived\n%q", what, sent.body, arrived.body)
	}
}
