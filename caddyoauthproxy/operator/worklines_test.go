package operator

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestWorkIsAnsweredInLinesOfWhichTheLastIsItsEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tells bool
		err   error
		last  string
	}{
		"done":               {tells: true, last: `{"result":{"rows":7}}`},
		"done in no time":    {last: `{"result":{"rows":7}}`},
		"failed on the way":  {tells: true, err: Conflict("the disk is full"), last: `{"error":"the disk is full"}`},
		"broke unexplained":  {tells: true, err: errors.New("secret inner state"), last: `{"error":"the gateway met an unexpected fault; its log has the details"}`},
		"refused beforehand": {err: Conflict("it runs already")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, w := &Server{log: zap.NewNop()}, httptest.NewRecorder()
			err := s.work(w, httptest.NewRequest(http.MethodPost, "/compact", nil), func(_ context.Context, tell func(tokenstore.Progress)) (any, error) {
				if c.tells {
					tell(tokenstore.Progress{Step: "copying", Done: 1, Total: 7})
					tell(tokenstore.Progress{Step: "copying", Done: 2, Total: 7}) // too soon to be said
				}
				return map[string]int{"rows": 7}, c.err
			})
			if c.last == "" {
				if !errors.Is(err, c.err) || w.Body.Len() > 0 {
					t.Fatalf("got %v, and %q was written", err, w.Body)
				}
				return
			}
			lines := strings.Split(strings.TrimSpace(w.Body.String()), "\n")
			want := 1
			if c.tells {
				want = 2
			}
			if err != nil || len(lines) != want || lines[len(lines)-1] != c.last || w.Header().Get("Content-Type") != "application/x-ndjson" {
				t.Errorf("got %q, %v, %v", lines, w.Header(), err)
			}
			var first Work
			if c.tells && (json.Unmarshal([]byte(lines[0]), &first) != nil || first.Progress == nil || first.Progress.Done != 1) {
				t.Errorf("began with %s", lines[0])
			}
		})
	}
}
