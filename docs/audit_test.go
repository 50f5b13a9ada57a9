package docs

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestEveryTypeOfEventsIsListedAndNoOther(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("audit.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, r := range table(t, string(doc), "Events") {
		listed = append(listed, regexp.MustCompile("^`(.*)`$").ReplaceAllString(r.id, "$1"))
	}
	if types := tokenstore.EventTypes(); !slices.Equal(listed, types) {
		t.Errorf("docs/audit.md lists\n%v\nthe code\n%v", listed, types)
	}
}
