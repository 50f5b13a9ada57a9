package caddyoauthproxy

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestCommandFollowsWorkToItsEnd(t *testing.T) {
	t.Parallel()
	const copying = `{"progress":{"step":"copying","kind":"grant","done":1,"total":2}}` + "\n"
	for name, c := range map[string]struct {
		status       int
		answer, want string // want is of the error
	}{
		"result":     {200, copying + copying + `{"result":{"rows":3}}`, ""},
		"error":      {200, copying + `{"error":"the disk is full"}`, "the disk is full"},
		"broken off": {200, copying, "broke off"},
		"no JSON":    {200, copying + "<html>", "answer of the admin endpoint"},
		"refused":    {409, `{"error":"conflict","error_description":"another one is under way"}`, "another one is under way"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if r.Method != http.MethodPost || r.URL.Path != "/oauth_proxy/migration" || string(body) != `{"to":"a store"}` || err != nil {
					t.Errorf("asked for %s %s with %s, %v", r.Method, r.URL, body, err)
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.answer)
			}))
			t.Cleanup(admin.Close)
			flags := new(cobra.Command).Flags()
			flags.String("address", strings.TrimPrefix(admin.URL, "http://"), "")
			flags.String("config", "", "")
			flags.String("adapter", "", "")
			var result struct{ Rows int }
			err := (&call{caddycmd.Flags{FlagSet: flags}, t.Context(), io.Discard}).work(http.MethodPost, "/migration", map[string]string{"to": "a store"}, &result)
			switch {
			case c.want == "" && (err != nil || result.Rows != 3):
				t.Errorf("%v, %+v", err, result)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want … %s …", err, c.want)
			}
		})
	}
}

func TestBarFillsTheTerminalAndLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	b := &progressBar{to: &out, width: 60}
	b.show(tokenstore.Progress{Step: "copying", Done: 1, Total: 2})
	if got := out.String(); !strings.Contains(got, "["+strings.Repeat("#", 15)+strings.Repeat(".", 15)+"] copying 1/2") {
		t.Errorf("%q", got)
	}
	b.show(tokenstore.Progress{Step: "x", Done: 5, Total: 2})
	b.end()
	lines := strings.Split(out.String(), "\r")
	if last := lines[len(lines)-1]; last != "" || strings.TrimSpace(lines[len(lines)-2]) != "" {
		t.Errorf("%q", out.String())
	}
	plain := bytes.Buffer{}
	b = &progressBar{to: &plain}
	b.show(tokenstore.Progress{Step: "copying", Done: 1, Total: 2})
	b.show(tokenstore.Progress{Step: "copying", Done: 2, Total: 2})
	b.end()
	if got := plain.String(); got != "copying: 1 of 2\n" {
		t.Errorf("without a terminal: %q", got)
	}
}
