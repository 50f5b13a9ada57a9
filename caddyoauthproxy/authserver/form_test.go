package authserver

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipe is a network in memory, whose connections have the time of the bubble.
type pipe struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipe) Addr() net.Addr { return &net.TCPAddr{} }

// readers are the ways in which endpoints read bodies, each with a body that it takes.
var readers = map[string]struct {
	mediaType, body string
	read            func(http.ResponseWriter, *http.Request) error
}{
	"form": {"application/x-www-form-urlencoded", "grant_type=refresh_token&refresh_token=x", func(w http.ResponseWriter, r *http.Request) error {
		_, err := readForm(w, r)
		return err
	}},
	"body": {"application/json", `{"redirect_uris":["https://bot.test/cb"]}`, func(w http.ResponseWriter, r *http.Request) error {
		_, err := readBody(w, r)
		return err
	}},
}

func TestT80BodyThatComesByteByByteIsCutOff(t *testing.T) {
	t.Parallel()
	for name, tt := range readers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				conn, handled := connect(t, tt.read)
				began := time.Now()
				_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Type: %s\r\nContent-Length: 16000\r\n\r\n", tt.mediaType)
				var slow sync.WaitGroup
				slow.Go(func() {
					for { // until the server closes
						if _, err := conn.Write([]byte("a")); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				})
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				if d := time.Since(began); resp.StatusCode != http.StatusRequestTimeout || !resp.Close || d > bodyTime+time.Second {
					t.Errorf("%d after %v, and closed: %v", resp.StatusCode, d, resp.Close)
				}
				<-handled
				if _, err := io.Copy(io.Discard, conn); err != nil || time.Since(began) > bodyTime+time.Second {
					t.Errorf("the connection lasted %v: %v", time.Since(began), err)
				}
				slow.Wait()
			})
		})
	}
}

// The bound is that of the body alone: a request that is worked on for longer is not taken for one whose client has left, and the connection is good for another.
func TestBodyInTimeLeavesTheRequestItsTime(t *testing.T) {
	t.Parallel()
	for name, tt := range readers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				conn, handled := connect(t, func(w http.ResponseWriter, r *http.Request) error {
					if err := tt.read(w, r); err != nil {
						return err
					}
					select {
					case <-r.Context().Done():
						return fmt.Errorf("the request was given up: %w", r.Context().Err())
					case <-time.After(3 * bodyTime):
						return nil
					}
				})
				answers := bufio.NewReader(conn)
				for range 2 {
					_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", tt.mediaType, len(tt.body))
					for part := range strings.SplitSeq(tt.body, "") {
						time.Sleep(bodyTime / 2 / time.Duration(len(tt.body)))
						_, _ = conn.Write([]byte(part))
					}
					resp, err := http.ReadResponse(answers, nil)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := io.Copy(io.Discard, resp.Body); resp.StatusCode != http.StatusOK || err != nil {
						t.Errorf("%d %v", resp.StatusCode, err)
					}
					<-handled
				}
			})
		})
	}
}

// connect is a connection to a server that reads requests so.
func connect(t *testing.T, read func(http.ResponseWriter, *http.Request) error) (conn net.Conn, handled <-chan struct{}) {
	t.Helper()
	done := make(chan struct{}, 2)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { done <- struct{}{} }()
		if err := read(w, r); err != nil {
			sendError(w, r, asError(err))
		}
	})}
	listener := &pipe{conns: make(chan net.Conn), done: make(chan struct{})}
	go func() { _ = server.Serve(listener) }()
	ours, theirs := net.Pipe()
	listener.conns <- theirs
	t.Cleanup(func() {
		_ = ours.Close()
		_ = server.Close()
	})
	return ours, done
}
