package console

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http/httptest"
	"strings"
	"testing"
)

// drawAssistant draws all of the assistant's pages with a text in every place.
func drawAssistant(p *Pages, text string) string {
	rec := httptest.NewRecorder()
	f := Frame{Base: "https://gw.test", User: "alice", Admin: true, CSRF: text}
	hidden := []Hidden{{text, text}}
	p.AssistantStart(rec, f, AssistantStart{Existing: []AssistantChoice{{text, text, "https://gw.test/x"}}, New: []AssistantChoice{{text, text, "https://gw.test/x"}}})
	p.AssistantForm(rec, 422, f, AssistantForm{
		Title: text, Note: text, Action: "https://gw.test/x", Hidden: hidden, CSRF: text, Start: "https://gw.test/x", Problems: []string{text},
		Sections: []AssistantSection{{text, []AssistantField{
			{Name: "a", Label: text, Help: text, Value: text, Problem: text}, {Name: "b", Label: text, Value: text, Lines: true}, {Name: "c", Options: []Option{{text, text, true}}}, {Name: "d", Value: text, Tick: true},
		}}},
	})
	p.AssistantResult(rec, f, AssistantResult{
		Title: text, Lead: text, RedirectURI: text, Provider: text, Guide: text, Resource: text, Blocks: []AssistantBlock{{"x", text, text, text}}, CanApply: true, Hidden: hidden, CSRF: text,
		Action: "https://gw.test/x", Start: "https://gw.test/x",
	})
	p.AssistantResult(rec, f, AssistantResult{WhyNot: text, Start: "https://gw.test/x"})
	p.AssistantPlan(rec, f, AssistantPlan{Changes: []AssistantChange{{text, text, text}}, Warning: text, Hidden: hidden, CSRF: text, Action: "https://gw.test/x", Start: "https://gw.test/x"})
	return rec.Body.String()
}

func TestT07HostileTextChangesNoPageOfTheAssistant(t *testing.T) {
	t.Parallel()
	p := newPages(t)
	want := shape(t, drawAssistant(p, "plain"))
	for _, text := range []string{`"><img src=x onerror=alert(1)>`, `</textarea><script>alert(1)</script>`, `</pre><b>`, `</script><script>alert(1)`, `' onmouseover='alert(1)`, "{{7*7}}", "{env.X}`\\"} {
		if got := shape(t, drawAssistant(p, text)); got != want {
			t.Errorf("%q changed the page:\n%s\n%s", text, got, want)
		}
	}
}

// One script is allowed, by its hash: were it wrong, there would only be no buttons, and nobody would notice.
func TestPolicyAllowsTheCopyButtonsOfTheAssistant(t *testing.T) {
	t.Parallel()
	rec := httptest.NewRecorder()
	newPages(t).AssistantResult(rec, Frame{}, AssistantResult{})
	_, rest, _ := strings.Cut(rec.Body.String(), "<script>")
	script, _, ok := strings.Cut(rest, "</script>")
	sum := sha256.Sum256([]byte(script))
	csp := rec.Header().Get("Content-Security-Policy")
	if !ok || !strings.Contains(csp, "script-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") || !strings.Contains(csp, "form-action 'self'") || strings.Contains(csp, "unsafe") {
		t.Errorf("%s does not allow\n%s", csp, script)
	}
}
