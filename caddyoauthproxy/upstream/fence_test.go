package upstream

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// net/http asks for the body again when the connection was gone before anything reached the server. It may have to dial for that, and the lease may end meanwhile.
func TestBodyThatIsSentAgainIsBehindTheFenceAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(f *fence, now *time.Time)
		want bool
	}{
		"the lease is good":    {func(*fence, *time.Time) {}, true},
		"the lease has ended":  {func(_ *fence, now *time.Time) { *now = now.Add(time.Minute) }, false},
		"the lease was lost":   {func(f *fence, _ *time.Time) { f.bar() }, false},
		"the lease was longer": {func(f *fence, now *time.Time) { f.extend(now.Add(time.Hour)); *now = now.Add(time.Minute) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			f := &fence{now: func() time.Time { return now }, until: now.Add(time.Second)}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://idp.test/token", strings.NewReader("refresh_token=r"))
			if err != nil {
				t.Fatal(err)
			}
			f.guard(req)
			if err := f.begin(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(req.Body); err != nil {
				t.Fatal(err)
			}
			c.end(f, &now)
			var sent []byte
			body, err := req.GetBody()
			if err == nil {
				sent, err = io.ReadAll(body)
			}
			if got := string(sent) == "refresh_token=r"; got != c.want || !c.want && !errors.Is(err, errLeaseOver) {
				t.Errorf("sent again: %q, %v", sent, err)
			}
			if f.wasSent() != c.want {
				t.Errorf("the fence says that it was sent: %t", f.wasSent())
			}
		})
	}
}
