package docs

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/format"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/jackc/pgx/v5"
	"go.yaml.in/yaml/v3"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testpg"
)

// fenced is a block of code of a page.
type fenced struct {
	page, section string // the page's path in the repository, and the heading above the block
	line          int    // where it opens
	language      string
	text          string

	// notRun is why nobody runs or reads it, as the comment on the line above says.
	notRun string
}

// notRun is the comment, which readers of the page do not see. The reason is for those who change it.
var notRun = regexp.MustCompile(`^<!-- not run: (.*?) *-->$`)

// blocksOf are the fenced blocks of a page.
func blocksOf(page, text string) (found []fenced, err error) {
	var open *fenced
	section, before := "", ""
	for i, line := range strings.Split(text, "\n") {
		info, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && open == nil:
			open = &fenced{page: page, section: section, line: i + 1, language: info}
			if m := notRun.FindStringSubmatch(before); m != nil {
				open.notRun = m[1]
				if m[1] == "" {
					return nil, fmt.Errorf("%s:%d: the comment gives no reason", page, i)
				}
			}
		case fence:
			found = append(found, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		case notRun.MatchString(before):
			return nil, fmt.Errorf("%s:%d: the comment is not right above a block", page, i)
		case strings.HasPrefix(line, "#"):
			section = strings.TrimLeft(line, "# ")
		}
		before = line
	}
	if open != nil {
		return nil, fmt.Errorf("%s:%d: the block has no end", page, open.line)
	}
	return found, nil
}

// checks say by its language what is wrong with a block.
var checks = map[string]func(*testing.T, fenced) error{
	"caddyfile": checkCaddyfile,
	"console":   checkConsole,
	"go":        checkGo,
	"json":      checkJSON,
	"sh":        checkShell,
	"sql":       checkSQL,
	"yaml":      checkYAML,
}

// runElsewhere are the sections of pages whose blocks a test runs, and compares with what they print; without a section, the whole page.
var runElsewhere = []struct{ page, section, language, test string }{
	{"README.md", "Try it", "sh", "TestSlowReadmeAndExamplesWorkAsTheyAreWritten"},
	{"README.md", "Try it", "text", "TestSlowReadmeAndExamplesWorkAsTheyAreWritten"},
	{"docs/tutorial.md", "", "", "TestTutorialWorksAsItIsWritten"},
	{"docs/admin.md", "", "console", "TestAdminPageShowsWhatIsPrinted"},
	{"docs/endpoints.md", "A call", "sh", "TestCallsAreAnsweredAsThePageOfEndpointsShows"},
	{"docs/endpoints.md", "A call", "text", "TestCallsAreAnsweredAsThePageOfEndpointsShows"},
	{"docs/configuration.md", "Checking a configuration", "text", "TestDoctorSaysWhatItsPageShows"},
	{"docs/configuration.md", "Identity for the server", "js", "TestSlowRecipeOfTheDocumentationChecksAssertions"},
	{"docs/configuration.md", "Over Caddy's config API", "sh", "TestServersAreAddedOverCaddysConfigAPIAsDocumented"},
}

// checkBlock says what is wrong with a block.
func checkBlock(t *testing.T, b fenced) error {
	t.Helper()
	check, known := checks[b.language]
	ran := false
	for _, e := range runElsewhere {
		ran = ran || e.page == b.page && (e.section == "" || e.section == b.section) && (e.language == "" || e.language == b.language)
	}
	switch {
	case b.language == "" || strings.ContainsFunc(b.language, unicode.IsSpace):
		return errors.New("the block does not say in one word what language it is in; `text` is what a program prints")
	case ran && b.notRun != "":
		return errors.New("the block is run: take the comment away")
	case ran:
		return nil
	case b.notRun == "" && !known:
		return fmt.Errorf("no test reads %s: have one run the block (runElsewhere), or say above it why none does: <!-- not run: … -->", b.language)
	case b.notRun == "":
		return check(t, b)
	case known && check(t, b) == nil:
		return errors.New("the block is good as it stands: take the comment away")
	default:
		return nil
	}
}

// Whatever a reader copies from a page is good: a test runs it, or something that knows its language has read it, or a comment says why neither is so.
func TestEveryBlockIsRunOrRead(t *testing.T) {
	seen, skipped := make(map[string]int), 0
	for _, page := range files(t, func(p string) bool {
		return path.Ext(p) == ".md" && (path.Dir(p) == "." || strings.HasPrefix(p, "docs/") || strings.HasPrefix(p, "examples/"))
	}) {
		found, err := blocksOf(page, read(t, page))
		if err != nil {
			t.Error(err)
		}
		for _, b := range found {
			seen[b.language]++
			if b.notRun != "" {
				skipped++
			}
			t.Run(fmt.Sprintf("%s:%d", b.page, b.line), func(t *testing.T) {
				if err := checkBlock(t, b); err != nil {
					t.Errorf("%s:%d: %v", b.page, b.line, err)
				}
			})
		}
	}
	if seen["caddyfile"] < 50 || seen["sh"] < 40 || seen["json"] < 8 || skipped > 10 {
		t.Errorf("%v were found, of which %d are not run: the test is no good", seen, skipped)
	}
}

func TestTestsThatRunBlocksKnowThePage(t *testing.T) {
	t.Parallel()
	tests := files(t, func(p string) bool { return path.Dir(p) == "internal/e2e" && strings.HasSuffix(p, "_test.go") })
	for _, e := range runElsewhere {
		if !slices.ContainsFunc(tests, func(file string) bool {
			text := read(t, file)
			return strings.Contains(text, "\nfunc "+e.test+"(") && strings.Contains(text, e.page)
		}) {
			t.Errorf("no file of internal/e2e has %s and reads %s", e.test, e.page)
		}
		if found, err := blocksOf(e.page, read(t, e.page)); err != nil || !slices.ContainsFunc(found, func(b fenced) bool {
			return (e.section == "" || e.section == b.section) && (e.language == "" || e.language == b.language)
		}) {
			t.Errorf("%s: no block of %s in %q (%v)", e.page, e.language, e.section, err)
		}
	}
}

// checkGo compiles a block as a package of this module, where a function unwrap stands for the reader's own.
func checkGo(t *testing.T, b fenced) error {
	t.Helper()
	formatted, err := format.Source([]byte(b.text))
	if err != nil {
		return err
	}
	if string(formatted) != b.text {
		return fmt.Errorf("gofmt writes it so:\n%s", formatted)
	}
	dir := t.TempDir()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	name := group(t, `^package (\w+)$`, b.text)
	overlay := map[string]map[string]string{"Replace": {}}
	for file, text := range map[string]string{
		"block.go": b.text,
		"stub.go":  "package " + name + "\n\nimport \"context\"\n\nfunc unwrap(context.Context, []byte) ([]byte, error) { return nil, nil }\n",
	} {
		overlay["Replace"][filepath.Join(root, "internal", name, file)] = filepath.Join(dir, file)
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "./internal/"+name)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// checkSQL has a new PostgreSQL do what the block says, statement by statement.
func checkSQL(t *testing.T, b fenced) error {
	t.Helper()
	c, err := pgx.Connect(t.Context(), testpg.Start(t).Admin(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context()) //nolint:errcheck // the server ends as well
	for statement := range strings.SplitSeq(b.text, ";\n") {
		if _, err := c.Exec(t.Context(), statement); err != nil {
			return err
		}
	}
	return nil
}

// checkJSON wants one object, in which nothing stands twice; one with apps is a configuration of Caddy's.
func checkJSON(t *testing.T, b fenced) error {
	t.Helper()
	var document map[string]any
	if err := json.Unmarshal([]byte(b.text), &document); err != nil {
		return fmt.Errorf("this is not JSON: %w", err)
	}
	if document["apps"] != nil {
		return validateJSON([]byte(b.text))
	}
	return checkYAML(t, b)
}

func checkYAML(_ *testing.T, b fenced) error {
	d := yaml.NewDecoder(strings.NewReader(b.text))
	for {
		var document map[string]any // what stands there twice is an error
		if err := d.Decode(&document); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// What is wrong in a block is found, each mistake by its kind.
func TestBlocksWithMistakesAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ page, want string }{
		"no language":              {"```\ntext\n```", "does not say in one word"},
		"not read":                 {"```text\ntext\n```", "no test reads text"},
		"no reason":                {"<!-- not run: -->\n```text\ntext\n```", "gives no reason"},
		"comment elsewhere":        {"<!-- not run: because -->\n\n```text\ntext\n```", "not right above"},
		"needless comment":         {"<!-- not run: because -->\n```json\n{}\n```", "take the comment away"},
		"no end":                   {"```json\n{}\n", "has no end"},
		"JSON":                     {"```json\n{\"a\": }\n```", "not JSON"},
		"JSON, of Caddy":           {"```json\n{\"apps\": {\"oauth_proxy\": {\"issuers\": \"https://a\"}}}\n```", "issuers"},
		"JSON, twice":              {"```json\n{\"a\": 1, \"a\": 2}\n```", "already defined"},
		"YAML":                     {"```yaml\na: [\n```", "did not find"},
		"SQL":                      {"```sql\nCREATE ROLL r;\n```", "ROLL"},
		"Go":                       {"```go\npackage p\n\nvar _ = nothing\n```", "undefined: nothing"},
		"Go, not formatted":        {"```go\npackage p\nvar  a int\n```", "gofmt"},
		"option":                   {"```caddyfile\n{\n\toauth_proxy {\n\t\tissuers https://a\n\t}\n}\n```", `unknown option "issuers"`},
		"option of a part":         {"```caddyfile\nprovider okta {\n\tdomain acme.okta.com\n\tclient_id a\n\tclient_secrets {env.A}\n}\n```", `unknown option "client_secrets"`},
		"second of alternatives":   {"```caddyfile\nregistration off\nregistration offf\n```", "offf"},
		"value":                    {"```caddyfile\ncode_ttl 20d\n```", "code_ttl"},
		"value, when provisioned":  {"```caddyfile\nprovider okta {\n\tdomain https://acme/x\n\tclient_id a\n\tclient_secret {env.A}\n}\n```", "domain"},
		"literal secret":           {"```caddyfile\nprovider github {\n\tclient_id a\n\tclient_secret b\n}\n```", "client_secret"},
		"directive":                {"```caddyfile\nmcp_prox jira https://a\n```", "mcp_prox"},
		"option of a directive":    {"```caddyfile\nmcp_filter jira {\n\tcredentials header\n}\n```", `unknown option "credentials"`},
		"shell":                    {"```sh\nif true\n```", "syntax error"},
		"program":                  {"```sh\ncady run\n```", "cady"},
		"target":                   {"```sh\nmake tests\n```", "make tests"},
		"variable of make":         {"```sh\nmake bench ROUND=1\n```", "ROUND"},
		"command of Caddy":         {"```sh\ncaddy valid\n```", "caddy valid"},
		"command of the gateway":   {"```sh\ncaddy oauth-proxy tokens\n```", "tokens"},
		"flag":                     {"```sh\ncaddy oauth-proxy \\\n\tdoctor --confg Caddyfile\n```", "--confg"},
		"value of a flag":          {"```sh\ncaddy oauth-proxy audit --limit many\n```", "many"},
		"configuration":            {"```sh\ncaddy validate --config nowhere.Caddyfile\n```", "nowhere.Caddyfile"},
		"folder":                   {"```sh\ngo run ./examples/chatbots\n```", "chatbots"},
		"test":                     {"```sh\ngo test -run TestNobodyWrote ./docs\n```", "TestNobodyWrote"},
		"slow test, without a tag": {"```sh\ngo test -run TestSlowR12 ./internal/e2e\n```", "TestSlowR12"},
		"benchmark":                {"```sh\ngo test -run '^$' -bench Nothing ./mcpfilter\n```", "Nothing"},
		"script":                   {"```sh\npython3 examples/chatbot/bot.py\n```", "bot.py"},
		"flag of a script":         {"```sh\npython3 examples/chatbot/chatbot.py --log-out http://localhost:8080/demo/mcp\n```", "--log-out"},
		"route":                    {"```sh\ncurl https://gateway.example.com/api/v1/oauth/tokens\n```", "GET /api/v1/oauth/tokens"},
		"method":                   {"```sh\ncurl -X PUT https://gateway.example.com/api/v1/oauth/validate\n```", "PUT /api/v1/oauth/validate"},
		"body":                     {"```sh\ncurl -d '{\"a\"}' https://gateway.example.com/api/v1/oauth/validate\n```", "not JSON"},
		"module":                   {"```sh\nxcaddy build --with github.com/caddy-oauth-proxy/caddy-oauth\n```", "is not the module"},
		"within a pipe":            {"```sh\necho a | make tests | jq\n```", "make tests"},
		"console":                  {"```console\n$ caddy oauth-proxy \\\n    tokens\noutput\n```", "tokens"},
		"console without commands": {"```console\noutput\n```", "no command"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := blocksOf("README.md", c.page)
			if err == nil {
				if len(found) != 1 {
					t.Fatalf("%d blocks", len(found))
				}
				err = checkBlock(t, found[0])
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}
