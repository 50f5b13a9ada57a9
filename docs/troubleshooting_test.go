package docs

import (
	"go/ast"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// leftOutTexts are messages that it does not have for a reason of their own.
var leftOutTexts = map[string]string{
	"text/plain; charset=utf-8":           "a header",
	"GET, HEAD":                           "a header",
	"Sign in again":                       "a button",
	"Back to your connections":            "a button",
	"unclear: …":                          "stands in the body beside `the message is unclear`, and says what is unclear",
	"mcp matcher: …":                      "what is behind it is one of the texts of `the message is unclear: …`",
	"page of operators refused to a user": "a log line of the level info",
}

// handedOn are the functions that answer with a text which they were given, and where that is found.
var handedOn = map[string]string{
	"refuse": "its calls", "errBearer": "its calls", "badRequest": "its calls", "malformedCredential": "its calls", "invalidToken": "its calls", "insufficientScope": "its calls",
	"badUpstream": "its calls", "setError": "errAnswerTooLong, answerIn, askedError", "bodyError": "its calls",
	"denied": "its calls", "Unavailable": "where the error is made", "visit.refuseApply": "where the error is made", "Server.pageProblem": "where the error is made",
	"unavailable":              "UnavailableError.Advice",
	"Filter.legible":           "the calls of unread in it",
	"Filter.judgeContents":     "deniedText, and itself",
	"registration.apply":       "itself, and validClientKeys",
	"Server.finishedSession":   "loginErrors",
	"Server.answerSignIn":      "loginErrors",
	"Server.writeSessionError": "where the error is made",
	"Server.redirectError":     "where the error is made",
	"Server.serveCallback":     "loginErrors",
	"Server.checkNewAPIKey":    "its calls of bad",
	"grantQuery":               "its calls of bad",
	"Server.CountGrants":       "tokenstore.RevocationFilter.Check, a part of the admin API",
	"Server.RevokeGrants":      "tokenstore.RevocationFilter.Check, a part of the admin API",
}

// exact are the sections whose messages are all those of the code; the others choose what is worth help, and may quote a part.
var exact = []string{"A chatbot is refused at the OAuth endpoints", "A chatbot is refused at the MCP server", "A page in the browser", "The admin API and Caddy", "Log lines", "Causes in the log"}

// documented are the messages of a section: what stands as code in the first column of its tables.
func documented(text string) []string {
	var found []string
	for line := range strings.Lines(text) {
		first, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		for _, code := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(first, -1) {
			found = append(found, code[1])
		}
	}
	return found
}

func TestEveryMessageHasHelpAndThereIsNoHelpForOthers(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]bool)
	for _, heading := range exact {
		for _, text := range documented(section(t, string(content), heading)) {
			if have[text] {
				t.Errorf("%q stands there twice", text)
			}
			have[text] = true
		}
	}
	refusals := documented(section(t, string(content), "The admin API refuses a request")) // which quotes only as much as is needed
	known, used := make(map[string]bool), make(map[string]bool)
	for _, m := range messages(t) {
		known[m.text] = true
		switch {
		case strings.Trim(m.text, "… ") == "":
			used[m.name] = true
			if handedOn[m.name] == "" {
				t.Errorf("%s answers with a text from elsewhere: have carriers name where it is written, and say so in handedOn", m.at)
			}
		case leftOutTexts[m.text] != "":
			used[m.text] = true
		case !m.log && slices.ContainsFunc(refusals, func(quoted string) bool { return covers(quoted, m.text) }):
		case !have[m.text]:
			t.Errorf("%s: troubleshooting.md has no help for\n\t%s", m.at, m.text)
		}
	}
	for text := range have {
		if !known[text] {
			t.Errorf("troubleshooting.md has help for what the code does not say:\n\t%s", text)
		}
	}
	for _, list := range []map[string]string{leftOutTexts, handedOn} {
		for name := range list {
			if !used[name] {
				t.Errorf("%s stands in a list of exceptions, and is not in the code", name)
			}
		}
	}
	if len(known) < 200 {
		t.Errorf("only %d messages were found", len(known))
	}
}

// Which of these have help is for TestEveryErrorOfCommandsTheAdminAPIAndTheStartHasHelp; what the page quotes of them must be what they say.
func TestErrorsAreQuotedAsTheyAre(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	said := texts(t)
	for _, heading := range helpful {
		quoted := documented(section(t, string(content), heading))
		if len(quoted) == 0 {
			t.Errorf("%s: nothing is quoted", heading)
		}
		for _, text := range quoted {
			if !slices.ContainsFunc(said, func(s string) bool { return covers(text, s) }) {
				t.Errorf("%s: nothing in the code says\n\t%s", heading, text)
			}
		}
	}
}

// texts are all texts of the code, with … for what varies.
func texts(t *testing.T) (said []string) {
	t.Helper()
	for _, s := range sources {
		inspect(t, s.dir, func(n ast.Node, _, _ string) {
			if e, ok := n.(ast.Expr); ok && textual(e) {
				said = append(said, pattern(e))
			}
		})
	}
	return said
}

// quotes reports whether a text with … for what is left out is a part of what is said somewhere.
func quotes(text string, said []string) bool {
	for _, s := range said {
		rest, found := s, true
		for part := range strings.SplitSeq(text, "…") {
			if _, rest, found = strings.Cut(rest, strings.TrimSpace(part)); !found {
				break
			}
		}
		if found {
			return true
		}
	}
	return false
}
