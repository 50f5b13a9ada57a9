package mcpfilter_test

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// The tables of docs/endpoints.md, section Headers, are the list of what changes on the way. These tests hold the filter to it, in both directions:
// what is in a table changes as it says, and whatever is in none passes. A new header goes into the table, and nowhere else.

// headerChanges are the rows of a table: what becomes of a header, by its name as it is compared.
type headerChanges map[string]string

// What becomes of a header, as its row begins.
const (
	becomesDeleted  = "deleted"
	becomesReplaced = "replaced"
	becomesAdded    = "added"
	becomesSet      = "set"
	becomesAnew     = "of one connection"
	becomesTagged   = "tagged"
)

// of says what becomes of a header; nothing does where the answer is empty.
func (c headerChanges) of(name string) string {
	folded := mcpfilter.FoldName(name)
	if what, ok := c[folded]; ok {
		return what
	}
	if strings.ContainsAny(name, "_.") {
		return "dropped by Caddy"
	}
	for pattern, what := range c {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(folded, prefix) {
			return what
		}
	}
	return ""
}

// that returns the headers of which that becomes.
func (c headerChanges) that(becomes string) []string {
	var names []string
	for name, what := range c {
		if strings.HasPrefix(what, becomes) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// documentedChanges reads the two tables.
func documentedChanges(t *testing.T) (requests, answers headerChanges) {
	t.Helper()
	doc, err := os.ReadFile("../docs/endpoints.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(doc), "\n## Headers\n")
	section, _, _ = strings.Cut(section, "\n## ")
	_, first, there := strings.Cut(section, "|---|---|\n")
	first, second, both := strings.Cut(first, "|---|---|\n")
	if !found || !there || !both {
		t.Fatal("docs/endpoints.md has no section Headers with two tables")
	}
	return readChanges(t, first), readChanges(t, second)
}

func readChanges(t *testing.T, table string) headerChanges {
	t.Helper()
	changes := make(headerChanges)
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| `") || len(cells) != 2 {
			continue
		}
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[0], -1) {
			folded := mcpfilter.FoldName(name[1])
			if changes[folded] != "" {
				t.Errorf("docs/endpoints.md has %s twice", name[1])
			}
			changes[folded] = strings.TrimSpace(cells[1])
		}
	}
	if len(changes) < 10 {
		t.Fatalf("%d headers were read", len(changes))
	}
	return changes
}

// The lists in the code are those in the documentation.
func TestDocumentationHasTheHeadersThatTheCodeHas(t *testing.T) {
	t.Parallel()
	requests, answers := documentedChanges(t)
	inCode := mcpfilter.DeletedHeaders()
	for _, name := range inCode {
		if what := requests[name]; !strings.HasPrefix(what, becomesDeleted) && name != "authorization" {
			t.Errorf("%s is deleted from requests; the documentation says %q", name, what)
		}
	}
	for _, name := range requests.that(becomesDeleted) {
		if !slices.Contains(inCode, name) {
			t.Errorf("%s is not deleted from requests", name)
		}
	}
	for _, name := range mcpfilter.WithheldHeaders {
		if what := answers.of(name); !strings.HasPrefix(what, becomesDeleted) {
			t.Errorf("%s is withheld from clients; the documentation says %q", name, what)
		}
	}
	for _, name := range answers.that(becomesDeleted) {
		if !slices.Contains(mcpfilter.WithheldHeaders, http.CanonicalHeaderKey(name)) && name != "access-control-*" {
			t.Errorf("%s is not withheld from clients", name)
		}
	}
}

// passingHeaders pass in both directions, values and all: those of MCP, of which nobody knows every one, and those of no one.
var passingHeaders = map[string][]string{
	"Mcp-Protocol-Version": {"2025-11-25"}, "Mcp-Method": {"tools/CALL"}, "Mcp-Name": {"=?base64?SGVsbG8=?="},
	"Mcp-Param-Region": {"us-West 1"}, "Mcp-Param-Nobody-Knows": {"", "TwIcE", "twice"}, "Mcp-Future": {`{"a": "b"}`},
	"Last-Event-Id": {"Stream/7_\"x\""}, "Traceparent": {"00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01"}, "Tracestate": {"a=1,b=2"}, "Baggage": {"k=v"},
	"Content-Language": {"de"}, "X-Request-Id": {"7"}, "X-Accel-Buffering": {"no"}, "Link": {"<a>; rel=x", "<b>"}, "Etag": {`W/"1"`}, "Server": {"theirs/1.0"}, "Retry-After": {"3"},
	"X-Forwarded": {"1"}, "X-Usernames": {"1"}, "Setcookie": {"1"},
}

func TestHeadersOfRequestsChangeAsDocumented(t *testing.T) {
	t.Parallel()
	requests, _ := documentedChanges(t)
	bothWays(t, func(t *testing.T, site string) {
		g, up := newGateway(t), new(recorder)
		s := startCaddy(t, g, resource, site, up)
		sent := http.Header{"Mcp-Session-Id": {g.tagged("S-1")}, "Authorization": {"Bearer good-token"}, "Content-Type": {`application/json; charset="utf-8"`}, "Accept": {"text/event-stream;q=0.5, application/json", "*/*"}}
		maps.Copy(sent, passingHeaders)
		for name, what := range requests {
			name = strings.Replace(name, "*", "anything", 1)
			if strings.HasPrefix(what, becomesAnew) || sent[http.CanonicalHeaderKey(name)] != nil || name == "x-session-token" { // which is another credential
				continue
			}
			sent[http.CanonicalHeaderKey(name)] = []string{"mallory"}
		}
		req := s.newRequest(t, http.MethodPost, "/jira/mcp", nil, listTools)
		req.Header = sent
		res, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		wantStatus(t, res, http.StatusOK)
		got := up.last(t).Header
		for name, values := range sent {
			arrived, what := got[http.CanonicalHeaderKey(name)], requests.of(name)
			var ok bool
			switch {
			case strings.HasPrefix(what, becomesDeleted):
				ok = arrived == nil && got[name] == nil
			case strings.HasPrefix(what, becomesReplaced):
				ok = len(arrived) == 1 && arrived[0] != values[0]
			case strings.HasPrefix(what, becomesTagged):
				ok = slices.Equal(arrived, []string{"S-1"})
			case strings.HasPrefix(what, becomesAdded) && len(arrived) > 0:
				ok = arrived[0] == values[0]
			default:
				ok = slices.Equal(arrived, values)
			}
			if !ok {
				t.Errorf("%s: sent %q, arrived %q; it is documented as %q", name, values, arrived, what)
			}
		}
		for name, values := range got {
			if _, ok := sent[name]; !ok && requests.of(name) == "" && name != "User-Agent" && name != "Accept-Encoding" { // which the test's client adds
				t.Errorf("%s: nobody sent it, arrived %q", name, values)
			}
		}
	})
}

// Caddy drops names with underscores and dots unless it is told of them. Those of tool parameters pass then, and the spellings that servers could take for
// other headers still do not.
func TestHeadersWithUnderscoresPassWhereCaddyKnowsThem(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, site string) {
		g, up := newGateway(t), new(recorder)
		server := httptest.NewServer(up)
		t.Cleanup(server.Close)
		handler, logs := loadCaddy(t, g.id, strings.NewReplacer("PROXY", g.id, "UPSTREAM", server.URL).Replace(`{
	auto_https off
	servers {
		expected_underscore_headers mcp-param-tenant_id x_forwarded_user x_api_key
		expected_dot_headers mcp-param-tenant.name x.forwarded.user x.api.key
	}
	oauth_proxy {
		proxy PROXY `+resource+`
	}
}
http:// {
`+site+`
}
`))
		front := httptest.NewServer(handler)
		t.Cleanup(front.Close)
		s := &caddyServer{front, logs}
		req := s.newRequest(t, http.MethodPost, "/jira/mcp", nil, listTools)
		for _, name := range []string{"mcp-param-tenant_id", "mcp-param-tenant.name", "mcp-param-not_known", "x_forwarded_user", "X.FORWARDED.USER", "x_api_key", "x.api.key"} {
			req.Header[name] = []string{"mallory"}
		}
		res, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		wantStatus(t, res, http.StatusOK)
		var arrived []string
		for name, values := range up.last(t).Header {
			if slices.Contains(values, "mallory") {
				arrived = append(arrived, name)
			}
		}
		slices.Sort(arrived)
		if want := []string{"Mcp-Param-Tenant.name", "Mcp-Param-Tenant_id"}; !slices.Equal(arrived, want) {
			t.Errorf("the MCP server got %q, want %q", arrived, want)
		}
	})
}

func TestHeadersOfAnswersChangeAsDocumented(t *testing.T) {
	t.Parallel()
	_, answers := documentedChanges(t)
	sent := maps.Clone(http.Header(passingHeaders))
	for name, what := range answers {
		name = http.CanonicalHeaderKey(strings.Replace(name, "*", "Allow-Headers", 1))
		if !strings.HasPrefix(what, becomesAnew) && name != "Location" && name != "Date" {
			sent[name] = []string{"theirs"}
		}
	}
	bothWays(t, func(t *testing.T, site string) {
		for _, theirs := range []bool{true, false} {
			up := &recorder{answer: func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Date"], w.Header()["Content-Type"] = nil, nil // or net/http adds them
				if theirs {
					maps.Copy(w.Header(), sent)
				}
				if to := r.URL.Query().Get("to"); to != "" {
					w.Header().Set("Location", to)
					w.WriteHeader(http.StatusTemporaryRedirect)
				}
				_, _ = io.WriteString(w, "text")
			}}
			g := newGateway(t)
			s := startCaddy(t, g, resource, site, up)
			res := s.request(t, http.MethodGet, "/jira/mcp", map[string]string{"Origin": "https://gw.test"}, "")
			for name, values := range sent {
				arrived, what := res.Header[name], answers.of(name)
				var ok bool
				switch {
				case strings.HasPrefix(what, becomesDeleted):
					ok = arrived == nil
				case strings.HasPrefix(what, becomesTagged) && theirs:
					ok = slices.Equal(arrived, []string{g.tagged("theirs")})
				case strings.HasPrefix(what, becomesSet):
					ok = len(arrived) == 1 && arrived[0] != "theirs" && arrived[0] != ""
				case strings.HasPrefix(what, becomesAdded) && theirs:
					ok = len(arrived) > 1 && slices.Contains(arrived, "theirs")
				case strings.HasPrefix(what, becomesAdded):
					ok = len(arrived) == 1
				case theirs:
					ok = slices.Equal(arrived, values)
				default:
					ok = arrived == nil
				}
				if !ok {
					t.Errorf("%s: sent %q: %t, arrived %q; it is documented as %q", name, values, theirs, arrived, what)
				}
			}
			for name, values := range res.Header {
				if _, ok := sent[name]; !ok && answers.of(name) == "" {
					t.Errorf("%s: nobody sent it, arrived %q", name, values)
				}
			}
			if theirs {
				continue
			}
			path := up.last(t).URL.Path
			if got := s.request(t, http.MethodGet, "/jira/mcp?to="+path+"/x", nil, "").Header["Location"]; !slices.Equal(got, []string{"/jira/mcp/x"}) {
				t.Errorf("Location: %q", got)
			}
		}
	})
}
