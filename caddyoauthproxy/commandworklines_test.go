package caddyoauthproxy

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestCommandTakesNothingForDoneThatDoesNotEndWithAResult(t *testing.T) {
	t.Parallel()
	const progress = `{"progress":{"step":"copying","done":1,"total":7}}` + "\n"
	for name, c := range map[string]struct{ answer, want string }{
		"done":       {progress + `{"result":{"rows":7}}`, ""},
		"failed":     {progress + `{"error":"the disk is full"}`, "the disk is full"},
		"broken off": {progress, "broke off"},
		"cut":        {progress + `{"result":{"ro`, "answer of the admin endpoint"},
		"empty":      {"", "broke off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, c.answer) }))
			t.Cleanup(admin.Close)
			cmd := new(cobra.Command)
			for name, value := range map[string]string{"address": strings.TrimPrefix(admin.URL, "http://"), "config": "", "adapter": ""} {
				cmd.Flags().String(name, value, "")
			}
			var result struct{ Rows int }
			err := (&call{caddycmd.Flags{FlagSet: cmd.Flags()}, context.Background(), io.Discard}).work("POST", "/compact", nil, &result)
			if c.want == "" && (err != nil || result.Rows != 7) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, %+v", err, result)
			}
		})
	}
}

func TestProgressIsABarOnATerminalAndALineForEachStepElsewhere(t *testing.T) {
	t.Parallel()
	for width, want := range map[int]string{
		0:  "copying grant: 0 of 4\ncomparing: 1 of 4\n",
		80: "\r[..............................] copying grant 0/4" + "\r[###############...............] copying grant 2/4" + "\r[#######.......................] comparing 1/4    " + "\r" + strings.Repeat(" ", 45) + "\r",
		10: "\r[........" + " " + "\r[########" + " " + "\r[#######." + " " + "\r         \r",
	} {
		var out strings.Builder
		bar := &progressBar{to: &out, width: width}
		for _, p := range []tokenstore.Progress{{Step: "copying", Kind: "grant", Total: 4}, {Step: "copying", Kind: "grant", Done: 2, Total: 4}, {Step: "comparing", Done: 1, Total: 4}} {
			bar.show(p)
		}
		bar.end()
		if got := out.String(); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
			t.Errorf("width %d: %q\nwant %q", width, got, want)
		}
	}
}
