package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Quickstart is the Caddyfile of examples/quickstart, at this world's addresses. It is for Options.Caddyfile.
func (w *World) Quickstart() string {
	content, err := os.ReadFile("../../examples/quickstart/Caddyfile")
	if err != nil {
		w.t.Fatal(err)
	}
	return w.InPlaceOfQuickstart(strings.Replace(string(content), "{env.QUICKSTART_DIR}/vault.db", filepath.ToSlash(w.VaultPath()), 1))
}

// InPlaceOfQuickstart puts this world's addresses in the place of the quickstart's.
func (w *World) InPlaceOfQuickstart(text string) string {
	return strings.NewReplacer(
		"http://localhost:8080", w.URL,
		"localhost:2029", fmt.Sprintf("localhost:%d", w.admin),
		"http://localhost:9400", w.ProviderURL,
		"http://localhost:9401", w.MCPURL,
	).Replace(text)
}
