package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// What the gateway, its log and its commands say at a provider is quoted as they say it. What providers and servers say is theirs.
func TestProvidersHaveAPageEachThatQuotesTheGatewayAsItSpeaks(t *testing.T) {
	t.Parallel()
	said := texts(t)
	pages, err := filepath.Glob("providers/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, page := range pages {
		named = append(named, strings.TrimSuffix(filepath.Base(page), ".md"))
	}
	types := slices.DeleteFunc(upstream.Types(), func(word string) bool { return word == "azure_ad" || word == "generic" }) // other words for microsoft and oauth2
	if !slices.Equal(sorted(named), sorted(types)) {
		t.Errorf("there are pages of %v, and types %v", named, types)
	}
	overview, err := os.ReadFile("providers.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range named {
		if !strings.Contains(string(overview), "\n| [`"+name+"`](providers/"+name+".md)") {
			t.Errorf("the overview does not lead to %s", name)
		}
	}
	quoted := 0
	for _, page := range append(pages, "providers.md") {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if name := strings.TrimSuffix(filepath.Base(page), ".md"); page != "providers.md" && !regexp.MustCompile("(?m)^```caddyfile\nprovider ("+name+" \\{|.*\n\ttype +"+name+"$)").Match(content) {
			t.Errorf("%s has no Caddyfile with the provider", page)
		}
		for _, row := range cells(t, string(content), "| seen | where | why, and what to do |") {
			switch row[1] {
			case "provider", "server":
				continue
			case "gateway", "log", "doctor", "validate":
			default:
				t.Errorf("%s: seen where? %s", page, row[1])
			}
			for _, text := range code.FindAllStringSubmatch(row[0], -1) {
				quoted++
				if !quotes(text[1], said) {
					t.Errorf("%s: nothing in the code says\n\t%s", page, text[1])
				}
			}
		}
	}
	if quoted < 30 {
		t.Errorf("only %d texts are quoted: the test is no good", quoted)
	}
}
