package console_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/net/html"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
)

// The hash is of what a browser reads, which has no carriage returns.
func TestStyleOfAnOperatorIsLetInWhateverItsLinesEndWith(t *testing.T) {
	t.Parallel()
	for name, css := range map[string]string{"lines": "a { color: red }\nb { color: blue }\n", "lines of Windows": "a { color: red }\r\nb { color: blue }\r\n", "lines of old": "a { color: red }\rb { color: blue }\r"} {
		pages, err := console.New(console.Options{Accent: "1f5fbf", Templates: fstest.MapFS{"style.css": &fstest.MapFile{Data: []byte(css)}}})
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		pages.Home(rec, console.Home{})
		doc, err := html.Parse(strings.NewReader(rec.Body.String()))
		if err != nil {
			t.Fatal(err)
		}
		for n := range doc.Descendants() {
			if n.Type != html.ElementNode || n.Data != "style" {
				continue
			}
			sum := sha256.Sum256([]byte(n.FirstChild.Data))
			if csp := rec.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
				t.Errorf("%s: %s is not for %q", name, csp, n.FirstChild.Data)
			}
		}
	}
}
