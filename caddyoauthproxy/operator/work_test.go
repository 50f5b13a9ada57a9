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

func TestWorkAnswersWithProgressAndEndsWithResultOrError(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tells  int
		result any
		err    error
		status int // zero: what was refused is left to the caller
		lines  []string
	}{
		"done at once":           {result: map[string]int{"rows": 3}, status: 200, lines: []string{`{"result":{"rows":3}}`}},
		"told too often":         {tells: 100, result: 1, status: 200, lines: []string{`{"progress":{"step":"copying","done":1,"total":100}}`, `{"result":1}`}},
		"refused at once":        {err: errors.New("no")},
		"failed on the way":      {tells: 1, err: tokenstore.ErrNotFound, status: 200, lines: []string{`{"progress":{"step":"copying","done":1,"total":100}}`, `{"error":"there is nothing of this id"}`}},
		"result that is no JSON": {result: func() {}, status: 200, lines: []string{`{"error":"the gateway met an unexpected fault; its log has the details"}`}},
		"fault inside is not told": {tells: 1, err: errors.New("secret of the storage"), status: 200, lines: []string{
			`{"progress":{"step":"copying","done":1,"total":100}}`, `{"error":"the gateway met an unexpected fault; its log has the details"}`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &Server{log: zap.NewNop()}
			w := httptest.NewRecorder()
			err := s.work(w, httptest.NewRequest(http.MethodPost, "/compact", http.NoBody), func(_ context.Context, tell func(tokenstore.Progress)) (any, error) {
				for i := range c.tells {
					tell(tokenstore.Progress{Step: "copying", Done: i + 1, Total: 100})
				}
				return c.result, c.err
			})
			if c.status == 0 {
				if !errors.Is(err, c.err) || w.Body.Len() > 0 {
					t.Fatalf("%v, %q", err, w.Body)
				}
				return
			}
			if got, want := strings.TrimSpace(w.Body.String()), strings.Join(c.lines, "\n"); err != nil || w.Code != c.status || got != want {
				t.Errorf("%v, %d:\n%s\nwant\n%s", err, w.Code, got, want)
			}
			var last Work
			if err := json.Unmarshal([]byte(c.lines[len(c.lines)-1]), &last); err != nil || (last.Error == "") == (last.Result == nil) {
				t.Errorf("the last line has both, or neither, of an error and a result: %+v, %v", last, err)
			}
		})
	}
}
