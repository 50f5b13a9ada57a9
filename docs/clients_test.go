package docs

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestWhatIsPastedIntoClientsIsJSONWithTheAddressAndNoSecret(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("clients.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(doc), -1)
	for _, block := range blocks {
		var pasted map[string]any
		if err := json.Unmarshal([]byte(block[1]), &pasted); err != nil {
			t.Errorf("%v:\n%s", err, block[1])
		}
		if !strings.Contains(block[1], `"https://gateway.example.com/jira/mcp"`) || strings.Contains(strings.ToLower(block[1]), "secret") {
			t.Errorf("without the address, or with a secret:\n%s", block[1])
		}
	}
	if len(blocks) < 7 {
		t.Errorf("%d blocks were read", len(blocks))
	}
}
