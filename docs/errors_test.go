package docs

import (
	"go/ast"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// errorCalls are the calls that make an error, and which of their arguments its text is.
var errorCalls = map[string]int{
	"New": 0, "Errorf": 0, "Errf": 0, "Err": 0, // of the standard library, and of Caddy's parser
	"badUsage": 0,                                       // the commands
	"Conflict": 0, "conflict": 0, "bad": 0, "denied": 2, // the admin API
	"noBackup": 0, "noMove": 0, "noCompaction": 0, "setBack": 0, "refused": 0, // the vault
}

// Who reads an error. A place whose errors nobody reads by themselves has the reason in place of these.
const (
	commands = "commands"
	adminAPI = "the admin API"
	start    = "the start"
)

// causeInLog is why a place is left out whose errors only stand behind others.
const causeInLog = "stands in the `cause` or `error` of a log line that has help, or behind a text that has; Causes in the log has those that say more"

// readBy says who reads the errors that are made in a file. The first that fits counts.
var readBy = []struct{ files, reader string }{
	{"caddyoauthproxy/command*.go", commands},
	{"caddyoauthproxy/backup.go", commands},
	{"caddyoauthproxy/compact.go", commands},
	{"caddyoauthproxy/migration*.go", commands},
	{"caddyoauthproxy/vaultreadonly.go", commands},
	{"tokenstore/auditlog.go", commands},
	{"tokenstore/auditverify.go", commands},
	{"tokenstore/backup*.go", commands},
	{"tokenstore/catchup*.go", commands},
	{"tokenstore/move*.go", commands},
	{"tokenstore/restore.go", commands},
	{"tokenstore/rekey*.go", commands},
	{"tokenstore/verifyopen.go", commands},
	{"tokenstore/verify*.go", "what verify finds has its remedy beside it"},
	{"tokenstore/bbolt/compact.go", commands},
	{"tokenstore/bbolt/readonly.go", commands},

	{"caddyoauthproxy/admin.go", adminAPI},
	{"caddyoauthproxy/operator/*.go", adminAPI},
	{"caddyoauthproxy/authserver/apikeycare.go", adminAPI},
	{"caddyoauthproxy/authserver/grantcare.go", adminAPI},
	{"tokenstore/auditquery.go", adminAPI},
	{"tokenstore/revocationorders.go", adminAPI},

	{"caddyoauthproxy/*.go", start},
	{"caddyoauthproxy/console/*.go", start},
	{"caddyoauthproxy/upstream/config.go", start},
	{"mcpfilter/caddyfile.go", start},
	{"mcpfilter/filter.go", start},
	{"mcpfilter/identityheaders.go", start},
	{"mcpfilter/mcpproxy.go", start},
	{"mcpfilter/paths.go", start},
	{"tokenstore/anchor.go", start},
	{"tokenstore/freeze.go", start},
	{"tokenstore/keyring.go", start},
	{"tokenstore/rootkey.go", start},
	{"tokenstore/bbolt/store.go", start},
	{"tokenstore/postgres/migrate.go", start},
	{"tokenstore/postgres/store.go", start},
	{"mcpfilter/matcher.go", start},

	{"caddyoauthproxy/authserver/redirecturi.go", "stands behind `redirect_uris`, or behind the option, and says what such a URI must be"},
	{"caddyoauthproxy/authserver/*.go", causeInLog},
	{"caddyoauthproxy/outbound/*.go", causeInLog},
	{"caddyoauthproxy/upstream/*.go", causeInLog},
	{"mcpfilter/message.go", "stands behind `the message is unclear`, and says what is unclear"},
	{"mcpfilter/jsonparts.go", "stands behind `the message is unclear`, and says what is unclear"},
	{"mcpfilter/*.go", causeInLog},
	{"tokenstore/bbolt/check*.go", "what verify finds has its remedy beside it"},
	{"tokenstore/limits.go", "a fault of this code"},
	{"tokenstore/*.go", causeInLog},
	{"tokenstore/bbolt/*.go", causeInLog},
	{"tokenstore/postgres/*.go", causeInLog},
}

// namedByOption is why refusals of a configuration are left out.
const namedByOption = "names the option, and says what to write"

// leftOutCalls are the calls whose texts troubleshooting.md need not have, each with the reason.
var leftOutCalls = map[string]string{
	"badUsage": "what a command says of its own flags names the flag, and what to give",
	"Errf":     "Caddy's parser puts file and line before it, and it " + namedByOption,
	"Err":      "Caddy's parser puts file and line before it, and it " + namedByOption,
}

// leftOutErrors are functions, and error values, whose texts it need not have either.
var leftOutErrors = map[string]string{
	"Admin.adminEndpoint":      namedByOption,
	"Admin.adminHost":          namedByOption,
	"Admin.checkApply":         namedByOption,
	"Admin.resolve":            namedByOption,
	"App.resolve":              namedByOption,
	"Audit.check":              namedByOption,
	"CheckBrand":               namedByOption,
	"CheckIdentity":            namedByOption,
	"Client.check":             namedByOption,
	"Client.resolve":           namedByOption,
	"Config.check":             namedByOption,
	"Config.checkClient":       namedByOption,
	"Filter.Provision":         namedByOption,
	"Filter.Validate":          namedByOption,
	"KeyCommand.check":         namedByOption,
	"KeyCredential.check":      namedByOption,
	"MetadataDocuments.check":  namedByOption,
	"PolicyRule.check":         namedByOption,
	"PostgresVault.check":      namedByOption,
	"Provider.checkWords":      namedByOption,
	"Provider.kind":            namedByOption,
	"Provider.resolve":         namedByOption,
	"Proxy.checkRule":          namedByOption,
	"Proxy.checkScopeIncludes": namedByOption,
	"Proxy.resolve":            namedByOption,
	"RateLimit.check":          namedByOption,
	"Registration.check":       namedByOption,
	"Registration.resolve":     namedByOption,
	"UpstreamToken.check":      namedByOption,
	"UpstreamToken.resolve":    namedByOption,
	"accentStyle":              namedByOption,
	"checkAlgorithm":           namedByOption,
	"checkChallengeMethod":     namedByOption,
	"checkConsent":             namedByOption,
	"checkEmail":               namedByOption,
	"checkEmailDomain":         namedByOption,
	"checkEndpoint":            namedByOption,
	"checkOrigin":              namedByOption,
	"checkProxyID":             namedByOption,
	"checkResource":            namedByOption,
	"checkURL":                 namedByOption,
	"configuredResourcePath":   namedByOption,
	"inRange":                  namedByOption,
	"newPathMap":               namedByOption,
	"parseColor":               namedByOption,
	"parseIssuer":              namedByOption,
	"parser.option":            namedByOption,
	"parser.proxyOption":       namedByOption,
	"splitUpstream":            namedByOption,

	"errNotInBackup":    "no command asks for it",
	"errOpenedReadOnly": "no command asks for it",
	"anchor.read":       "stands behind `what this node knows of it cannot be read`",
	"placeholderKeys":   "stands behind the line of the Caddyfile, and " + namedByOption,
	"CheckImport":       "a fault of this code",
	"New":               "a fault of this code: the gateway always sets it",
	"writing.readBack":  "a fault of this code: what it wrote is not what it reads",
	"tokenSource.token": "a cause in the log",
	"errOperatorsToken": "a cause in the log",
	"Store.Close":       "stands in `error` of `closing vault`",
}

// helpful are the sections that have help for errors, beside those of exact.
var helpful = []string{"The admin API refuses a request", "Caddy does not start, or refuses a configuration", "A command fails"}

func TestEveryErrorOfCommandsTheAdminAPIAndTheStartHasHelp(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := os.ReadFile("cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	help := documented(section(t, string(cluster), "Troubleshooting"))
	for _, heading := range slices.Concat(exact, helpful) {
		help = append(help, documented(section(t, string(content), heading))...)
	}
	used, found := make(map[string]bool), make(map[string]int)
	for _, s := range sources {
		inspect(t, s.dir, func(n ast.Node, name, at string) {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return
			}
			i, ok := errorCalls[callee(call)]
			if !ok || len(call.Args) <= i {
				return
			}
			text := pattern(call.Args[i])
			if words := ownWords(text); words < 2 || words < 4 && strings.HasSuffix(text, "…") {
				return // it says where something is, before what is told of it
			}
			file, _, _ := strings.Cut(at, ":")
			place := slices.IndexFunc(readBy, func(r struct{ files, reader string }) bool {
				fits, err := filepath.Match(r.files, file)
				return fits && err == nil
			})
			if place < 0 {
				t.Errorf("%s makes an error, and readBy does not say who reads it", at)
				return
			}
			used[readBy[place].files] = true
			reader := readBy[place].reader
			found[reader]++
			if reader != commands && reader != adminAPI && reader != start {
				return
			}
			switch {
			case slices.ContainsFunc(help, func(quoted string) bool { return covers(quoted, text) }):
			case leftOutCalls[callee(call)] != "":
				used[callee(call)] = true
			case leftOutErrors[name] != "":
				used[name] = true
			default:
				t.Errorf("%s: troubleshooting.md has no help for\n\t%s", at, text)
			}
		})
	}
	for _, r := range readBy {
		if !used[r.files] {
			t.Errorf("%s stands in readBy, and no errors are made there", r.files)
		}
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(leftOutCalls)), slices.Collect(maps.Keys(leftOutErrors))) {
		if !used[name] {
			t.Errorf("%s stands in a list of exceptions, and needs none", name)
		}
	}
	for _, reader := range []string{commands, adminAPI, start} {
		if found[reader] < 50 {
			t.Errorf("%s: only %d errors were found", reader, found[reader])
		}
	}
}

// covers reports whether a text of the page is all of a message, or so much of it that nobody takes it for another.
func covers(quoted, message string) bool {
	return quoted == message || len(strings.ReplaceAll(quoted, "…", "")) >= 10 && quotes(quoted, []string{message})
}

// ownWords counts the words of a text that do not vary.
func ownWords(text string) (n int) {
	for word := range strings.FieldsSeq(text) {
		if strings.ContainsFunc(word, unicode.IsLetter) {
			n++
		}
	}
	return n
}
