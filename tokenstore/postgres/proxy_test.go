package postgres

import (
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands for the network before a server. It can be slow, and swallow what passes without that either end is told.
type proxy struct {
	address  string
	upstream string
	delay    atomic.Int64 // of what passes in either direction
	deafNew  atomic.Bool  // new connections are swallowed

	mu    sync.Mutex
	links map[*link]struct{}
	opens int
}

// link is a connection through the proxy.
type link struct {
	client, server net.Conn
	swallow        atomic.Bool
	ended          int // directions
}

func newProxy(t testing.TB, upstream string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: l.Addr().String(), upstream: upstream, links: make(map[*link]struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", upstream)
			if err != nil {
				_ = client.Close()
				continue
			}
			k := &link{client: client, server: server}
			k.swallow.Store(p.deafNew.Load())
			p.mu.Lock()
			p.links[k] = struct{}{}
			p.opens++
			p.mu.Unlock()
			for _, ends := range [][2]net.Conn{{client, server}, {server, client}} {
				wg.Go(func() { p.pass(k, ends[0], ends[1]) })
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for k := range p.links {
			_ = k.client.Close()
			_ = k.server.Close()
		}
		p.mu.Unlock()
		wg.Wait()
	})
	return p
}

// pass copies one direction, in order, each piece after the delay that held when it came.
func (p *proxy) pass(k *link, from, to net.Conn) {
	type piece struct {
		data []byte
		at   time.Time
	}
	pieces := make(chan piece, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for x := range pieces {
			time.Sleep(time.Until(x.at))
			if !k.swallow.Load() {
				_, _ = to.Write(x.data) // an error shows in the next read
			}
		}
		if !k.swallow.Load() {
			_ = to.Close()
		}
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			pieces <- piece{append([]byte(nil), buffer[:n]...), time.Now().Add(time.Duration(p.delay.Load()))}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	<-done
	_ = from.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if k.ended++; k.ended == 2 {
		delete(p.links, k)
	}
}

// swallow has all connections that there are, and with it new ones, go on without that anything passes. None is closed.
func (p *proxy) swallow(alsoNew bool) {
	p.deafNew.Store(alsoNew)
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.links {
		k.swallow.Store(true)
	}
}

// restore lets new connections pass. Those that were swallowed stay so.
func (p *proxy) restore() { p.deafNew.Store(false) }

// opened is how many connections have been made so far.
func (p *proxy) opened() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opens
}

// through is a connection string that goes through the proxy.
func (p *proxy) through(t testing.TB, connection string) string {
	t.Helper()
	u, err := url.Parse(connection)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = p.address
	return u.String()
}
