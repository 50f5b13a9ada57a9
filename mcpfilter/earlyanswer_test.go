package mcpfilter_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A body that is too long to be kept in memory, or is none of JSON, is read while the MCP server answers already. Neither the one nor the other is lost.
func TestAnswerThatBeginsBeforeTheBodyHasEndedIsWhole(t *testing.T) {
	t.Parallel()
	const half = 5 << 20 // more than is read ahead
	for name, contentType := range map[string]string{"long JSON": "application/json", "something else": "application/octet-stream"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bothWays(t, func(t *testing.T, site string) {
				s := startCaddy(t, newGateway(t), resource, site, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					control := http.NewResponseController(w)
					_ = control.EnableFullDuplex()
					first, _ := io.CopyN(io.Discard, r.Body, half)
					w.Header().Set("Content-Type", "text/event-stream")
					fmt.Fprintf(w, "data: %d\n\n", first)
					_ = control.Flush()
					rest, err := io.Copy(io.Discard, r.Body)
					fmt.Fprintf(w, "data: %d %v\n\n", rest, err)
				}))
				body, more := io.Pipe()
				req := s.newRequest(t, http.MethodPost, "/jira/mcp", map[string]string{"Content-Type": contentType}, "")
				req.Body, req.ContentLength = body, 2*half
				go func() { _, _ = io.WriteString(more, strings.Repeat("x", half)) }()
				stuck := time.AfterFunc(10*time.Second, func() { _ = more.CloseWithError(io.ErrUnexpectedEOF) })
				defer stuck.Stop()
				res, err := s.Client().Transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				events := bufio.NewReader(res.Body)
				if got := event(t, events); got != fmt.Sprint(half) {
					t.Errorf("first event: %q", got)
				}
				_, _ = io.WriteString(more, strings.Repeat("y", half))
				_ = more.Close()
				if got := event(t, events); got != fmt.Sprintf("%d <nil>", half) {
					t.Errorf("second event: %q", got)
				}
			})
		})
	}
}
