package authserver

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Who follows docs/clients.md and lists the preset of a client lets that client in.
func TestPresetsAllowTheRedirectURIsThatTheDocsNameForTheirClients(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`]*)`")
	var seen []string
	for line := range strings.Lines(string(doc)) {
		cells := strings.Split(line, " | ")
		if len(cells) != 4 || !strings.HasPrefix(line, "| [") {
			continue
		}
		preset := quoted.FindStringSubmatch(cells[3])[1]
		seen = append(seen, preset)
		p := &Proxy{AllowedRedirects: []string{preset}}
		uris := quoted.FindAllStringSubmatch(cells[2], -1)
		if len(uris) == 0 {
			t.Errorf("no redirect URI: %s", line)
		}
		for _, uri := range uris {
			if err := p.CheckRedirect(uri[1]); err != nil {
				t.Errorf("%s does not allow %s: %v", preset, uri[1], err)
			}
		}
	}
	for _, preset := range RedirectPresets() {
		if preset != "loopback" && !slices.Contains(seen, preset) {
			t.Errorf("no client is documented for the preset %s", preset)
		}
	}
}
