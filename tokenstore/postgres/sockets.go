package postgres

import (
	"context"
	"net"
	"sync"
	"time"
)

// keepAlive finds out that a peer is gone without a word, on connections that nobody uses.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3}

// sockets are the open connections of a Store to its database, so that they can be closed from here. A connection over a network that swallows everything would
// otherwise be waited for, some even after it was closed: pgx asks the database to cancel what ran on it.
type sockets struct {
	mu   sync.Mutex
	open map[*socket]struct{}
	shut bool // no more
}

type socket struct {
	net.Conn
	of *sockets
}

func newSockets() *sockets { return &sockets{open: make(map[*socket]struct{})} }

// dial is a pgconn.DialFunc.
func (s *sockets) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &socket{Conn: conn, of: s}
	s.mu.Lock()
	shut := s.shut
	s.open[c] = struct{}{}
	s.mu.Unlock()
	if shut {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// Close implements net.Conn.
func (c *socket) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// cut closes all that are open.
func (s *sockets) cut() {
	s.mu.Lock()
	open := s.open
	s.open = make(map[*socket]struct{})
	s.mu.Unlock()
	for c := range open {
		_ = c.Conn.Close() // whoever uses it gets the error
	}
}

// end closes all that are open, and lets nobody open more.
func (s *sockets) end() {
	s.mu.Lock()
	s.shut = true
	s.mu.Unlock()
	s.cut()
}
