package mcpfilter

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slowEnd is an event stream that ends some time after its last event. It may be closed meanwhile.
type slowEnd struct {
	io.Reader
	after time.Duration
}

func (s slowEnd) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil {
		time.Sleep(s.after)
	}
	return n, err
}

func (slowEnd) Close() error { return nil }

// To be run with -race, which sees what two goroutines do at about the same time.
func TestAnswerTakesThePlaceOfAStreamThatIsBeingClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const answer = `{"jsonrpc":"2.0","id":1,"result":{}}`
		res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {mediaEvents}}}
		res.Body = slowEnd{strings.NewReader("data: " + answer + "\n\n"), 2 * drainTime}
		if err := plainAnswer(t.Context(), res, json.RawMessage("1")); err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != answer {
			t.Errorf("%s, %v", body, err)
		}
	})
}
