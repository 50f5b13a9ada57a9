package bench

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// request is the body of every request of a load, and head what stands before it, but for host, token and length.
const (
	request = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"query":"open issues of the payment team","limit":20},` +
		`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`
	head = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nUser-Agent: bench\r\n" +
		"MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: search\r\n"
)

// load is a number of connections on which requests follow one another.
type load struct {
	address, path string
	tokens        []string // of which each request has one at random; none where there are none
	conns         []*client
}

type client struct {
	conn   net.Conn
	in     *bufio.Reader
	out    []byte
	random *rand.Rand
	took   []time.Duration
}

func newLoad(b *testing.B, address, path string, tokens []string, n int) *load {
	b.Helper()
	l := &load{address: address, path: path, tokens: tokens}
	for i := range n {
		c, err := dial(b, address)
		if err != nil {
			b.Fatal(err)
		}
		c.random = rand.New(rand.NewPCG(uint64(i), 1))
		b.Cleanup(func() { _ = c.conn.Close() })
		l.conns = append(l.conns, c)
	}
	return l
}

func dial(b *testing.B, address string) (*client, error) {
	conn, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, in: bufio.NewReader(conn)}, nil
}

// tryCall sends a target one request, on a connection of its own.
func tryCall(b *testing.B, t *target, token string) error {
	l := &load{address: t.address(), path: t.path}
	c, err := dial(b, l.address)
	if err != nil {
		return err
	}
	defer func() { _ = c.conn.Close() }()
	return l.call(c, token)
}

// run calls for so long, and returns how long each call took.
func (l *load) run(b *testing.B, for_ time.Duration) []time.Duration {
	b.Helper()
	var working sync.WaitGroup
	end := time.Now().Add(for_)
	for _, c := range l.conns {
		working.Go(func() {
			c.took = c.took[:0]
			for began := time.Now(); began.Before(end); {
				token := ""
				if len(l.tokens) > 0 {
					token = l.tokens[c.random.IntN(len(l.tokens))]
				}
				if err := l.call(c, token); err != nil {
					b.Errorf("%s%s: %v", l.address, l.path, err)
					return
				}
				now := time.Now()
				c.took = append(c.took, now.Sub(began))
				began = now
			}
		})
	}
	working.Wait()
	return l.took(b)
}

// took is how long each call took, sorted.
func (l *load) took(b *testing.B) (all []time.Duration) {
	b.Helper()
	for _, c := range l.conns {
		all = append(all, c.took...)
	}
	if b.Failed() {
		b.FailNow()
	}
	slices.Sort(all)
	return all
}

// each sends one request with each token, in order, and returns how many there were.
func (l *load) each(b *testing.B, tokens []string) {
	b.Helper()
	var working sync.WaitGroup
	for i, c := range l.conns {
		working.Go(func() {
			for n := i; n < len(tokens); n += len(l.conns) {
				if err := l.call(c, tokens[n]); err != nil {
					b.Errorf("%s%s: %v", l.address, l.path, err)
					return
				}
			}
		})
	}
	working.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

func (l *load) call(c *client, token string) error {
	c.out = fmt.Appendf(c.out[:0], "POST %s HTTP/1.1\r\nHost: %s\r\n%s",
		l.path, strings.Replace(l.address, "127.0.0.1", "localhost", 1), head)
	if token != "" {
		c.out = append(append(append(c.out, "Authorization: Bearer "...), token...), "\r\n"...)
	}
	c.out = fmt.Appendf(c.out, "Content-Length: %d\r\n\r\n%s", len(request), request)
	if _, err := c.conn.Write(c.out); err != nil {
		return err
	}
	first, length, err := readHead(c.in)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(first, "HTTP/1.1 200 ") || length < len(found) {
		return fmt.Errorf("%s, %d bytes", first, length)
	}
	_, err = c.in.Discard(length)
	return err
}

// quantile is that of sorted values.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
