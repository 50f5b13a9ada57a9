package console

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/net/html"
)

func newPages(t *testing.T) *Pages {
	t.Helper()
	p, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestT06EveryPageForbidsFramesScriptsAndCaching(t *testing.T) {
	t.Parallel()
	p := newPages(t)
	for name, draw := range map[string]func(http.ResponseWriter){
		"consent": func(w http.ResponseWriter) { p.Consent(w, Consent{}) },
		"problem": func(w http.ResponseWriter) { p.Problem(w, 400, Problem{Title: "x"}) },
		"notice":  func(w http.ResponseWriter) { p.Notice(w, Notice{Title: "x"}) },
		"home":    func(w http.ResponseWriter) { p.Home(w, Home{}) },
	} {
		rec := httptest.NewRecorder()
		draw(rec)
		h := rec.Header()
		csp := h.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "form-action") {
			t.Errorf("%s: %s", name, csp)
		}
		for header, want := range map[string]string{
			"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			if h.Get(header) != want {
				t.Errorf("%s: %s is %q", name, header, h.Get(header))
			}
		}
		if body := rec.Body.String(); strings.Contains(body, "<script") || strings.Contains(body, "src=") || !strings.Contains(body, `lang="en"`) {
			t.Errorf("%s: %s", name, body)
		}
	}
}

// The one style is allowed by its hash: were it wrong, browsers would show bare pages.
func TestPolicyAllowsThePagesOwnStyle(t *testing.T) {
	t.Parallel()
	rec := httptest.NewRecorder()
	newPages(t).Home(rec, Home{})
	_, rest, _ := strings.Cut(rec.Body.String(), "<style>")
	style, _, ok := strings.Cut(rest, "</style>")
	if !ok || len(style) < 1000 {
		t.Fatalf("no style: %s", rec.Body.String())
	}
	sum := sha256.Sum256([]byte(style))
	want := "style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	if csp := rec.Header().Get("Content-Security-Policy"); !strings.Contains(csp, want) {
		t.Errorf("%s does not allow %s", csp, want)
	}
}

func TestConsentSaysScopesInWords(t *testing.T) {
	t.Parallel()
	rec := httptest.NewRecorder()
	newPages(t).Consent(rec, Consent{Scopes: []Scope{{Name: "email"}, {Name: "read:jira"}, {Name: "x", Text: "do x"}}})
	for _, want := range []string{"see your e-mail address", "<code>read:jira</code>", "do x"} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("no %q", want)
		}
	}
}

// shape lists elements and attribute names, which no text may change.
func shape(t *testing.T, body string) string {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		b.WriteString("<" + n.Data)
		for _, a := range n.Attr {
			b.WriteString(" " + a.Key)
			if (a.Key == "href" || a.Key == "action" || a.Key == "src") && strings.Contains(strings.ToLower(a.Val), "script:") {
				b.WriteString("=" + a.Val)
			}
		}
	}
	return b.String()
}

func TestT07HostileTextChangesNoMarkup(t *testing.T) {
	t.Parallel()
	p := newPages(t)
	draw := func(text string) string {
		rec := httptest.NewRecorder()
		p.Consent(rec, Consent{
			Action: "https://gw.test/consent", Request: text, CSRF: text, ClientName: text, ClientID: text, ClientURI: text, RedirectHost: text,
			Proxy: text, Resource: text, Provider: text, Scopes: []Scope{{Name: text, Text: text}}, Loopback: true,
		})
		p.Problem(rec, 400, Problem{Title: text, Text: text, Advice: text, Code: text})
		p.Notice(rec, Notice{Title: text, Text: text, Details: [][2]string{{text, text}}})
		p.Home(rec, Home{Issuer: text, Proxies: []HomeProxy{{text, text}}})
		return rec.Body.String()
	}
	want := shape(t, draw("plain"))
	for _, text := range []string{
		`"><img src=x onerror=fetch('//evil')>`, `javascript:alert(1)`, `{{7*7}}`, `</title><script>alert(1)</script>`, `</style><script>`,
		`' onmouseover='alert(1)`, `<!--`, `]]>`, "\x00<b>", `</form><form action="https://evil.test">`, `{env.SECRET}{file./etc/passwd}`,
	} {
		body := draw(text)
		if got := shape(t, body); got != want {
			t.Errorf("%q changed the page:\n%s\n%s", text, got, want)
		}
		if strings.Contains(text, "{{") && strings.Contains(body, ">49<") {
			t.Errorf("%q was computed", text)
		}
	}
}

func TestT08ConsentShowsWhereTheAnswerGoes(t *testing.T) {
	t.Parallel()
	p := newPages(t)
	draw := func(c Consent) string {
		rec := httptest.NewRecorder()
		p.Consent(rec, c)
		return rec.Body.String()
	}
	body := draw(Consent{ClientName: "Cla\u202Eude\n\nVerified\u200B", RedirectHost: "bücher.example:8443", Proxy: "Jira"})
	if strings.ContainsAny(body, "\u202E\u200B") || !strings.Contains(body, "“Claude Verified”") {
		t.Errorf("name: %s", body)
	}
	if !strings.Contains(body, "xn--bcher-kva.example:8443") || strings.Contains(body, "bücher") {
		t.Error("the host is not shown in its ASCII form")
	}
	if !strings.Contains(body, "Allow access to Jira?") || strings.Contains(body, "<h1>Claude") {
		t.Error("the heading is not the gateway's own")
	}
	const warning = "program on your own"
	if strings.Contains(body, warning) || !strings.Contains(draw(Consent{Loopback: true, KnownToOperator: true}), warning) || !strings.Contains(draw(Consent{OwnScheme: true, VerifiedHost: "x.test"}), warning) {
		t.Error("the warning is for programs on the user's own machine, and for them alone")
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "a b", "a\u202Eb", "\xff", "\u2028", strings.Repeat("ä", 100), " \t x"} {
		f.Add(s, 10)
	}
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = min(max(most, 1), 1000)
		got := Clean(s, most)
		if n := len([]rune(got)); n > most+1 {
			t.Fatalf("%d characters of %d", n, most)
		}
		for _, r := range got {
			if unicode.In(r, unicode.Cc, unicode.Cf) {
				t.Fatalf("%q kept %U", s, r)
			}
		}
	})
}

// A long name in front must not push the end out of sight, because the end says whose host it is.
func TestT08HostIsShownWhole(t *testing.T) {
	t.Parallel()
	host := "claude.ai." + strings.Repeat("long-name.", 23) + "evil.test:8443"
	if got := asciiHost(host); got != host {
		t.Errorf("got %s", got)
	}
}

// Chrome would apply it to every hop behind the form, the client's own included, which nobody can list.
func TestT09NoPageRestrictsWhereItsFormLeads(t *testing.T) {
	t.Parallel()
	p, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	p.Consent(rec, Consent{Proxy: "x"})
	if csp := rec.Header().Get("Content-Security-Policy"); strings.Contains(csp, "form-action") || !strings.Contains(csp, "frame-ancestors 'none'") {
		t.Errorf("policy: %s", csp)
	}
}
