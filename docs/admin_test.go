package docs

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestAdminPageTellsOfEveryRouteOfTheAPI(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("admin.md")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("../caddyoauthproxy/operator/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(raw, &document); err != nil || len(document.Paths) < 15 {
		t.Fatalf("%d paths, %v", len(document.Paths), err)
	}
	told := make(map[string]bool)
	for _, m := range regexp.MustCompile("`((?:GET|POST|DELETE) /[^`]*)`").FindAllStringSubmatch(string(page), -1) {
		told[m[1]] = true
	}
	for path, methods := range document.Paths {
		for method := range methods {
			route := strings.ToUpper(method) + " " + path
			if method != "parameters" && !told[route] && !strings.HasPrefix(path, "/grants/") {
				t.Errorf("%s is missing", route)
			}
			delete(told, route)
		}
	}
	for route := range told {
		t.Errorf("there is no %s", route)
	}
}
