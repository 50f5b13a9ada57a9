//go:build slow

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// In a real Caddy, through all that it puts around a connection, and without timeouts of the operator's.
func TestSlowT80BodiesThatComeByteByByteAreCutOff(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{})
	site, err := url.Parse(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	for path, mediaType := range map[string]string{
		"/api/v1/oauth-proxy/token": "application/x-www-form-urlencoded", "/api/v1/oauth-proxy/consent": "application/x-www-form-urlencoded", "/api/v1/oauth-proxy/register": "application/json",
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", site.Host)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			began := time.Now()
			if err := conn.SetDeadline(began.Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: 16000\r\n\r\n", path, site.Host, mediaType)
			go func() {
				for {
					if _, err := io.WriteString(conn, "a"); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			answers := bufio.NewReader(conn)
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatalf("after %v: %v", time.Since(began), err)
			}
			if d := time.Since(began); resp.StatusCode != http.StatusRequestTimeout || d < 29*time.Second || d > 40*time.Second {
				t.Errorf("%d after %v", resp.StatusCode, d)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			if _, err := answers.ReadByte(); err == nil || time.Since(began) > 45*time.Second {
				t.Errorf("the connection lasted %v: %v", time.Since(began), err)
			}
		})
	}
}
