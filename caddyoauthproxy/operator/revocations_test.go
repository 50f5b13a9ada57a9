package operator_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// Whatever a slip of the pen, or of a script, makes of a filter: it never ends more than was meant.
func TestT80FiltersToRevokeByAreReadToTheLetter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(4)
	for filter, want := range map[string]string{
		`{"proxy":"jira","user_id":""}`:                  `\"user_id\" is empty`,
		`{"proxy":"jira","user_id":null}`:                `user_id is missing: null is no value`,
		`{"all":false,"proxy":"jira","provider":""}`:     `\"provider\" is empty`,
		`{"user_id":"user-0001","user_id":"user-0002"}`:  `\"user_id\" is there more than once`,
		`{"proxy":"jira"},"filter":{"client_id":"x"}`:    `\"filter\" is there more than once`,
		`{"proxy":"jira","Proxy":"wiki"}`:                `\"Proxy\" is unknown`,
		`{"PROXY":"jira"}`:                               `\"PROXY\" is unknown`,
		"{\"proxy\":\"jira\",\"uſer_id\":\"user-0001\"}": `is unknown`,
		`{"proxy":"jira","user":"user-0001"}`:            `unknown field`,
		`null`:                                           `is missing`,
		`[]`:                                             `filter`,
		`"jira"`:                                         `filter`,
	} {
		for _, dry := range []string{"true", "false"} {
			if a := w.ask("POST", "/revocations", `{"dry_run":`+dry+`,"filter":`+filter+`}`); a.status != 400 || !strings.Contains(a.body, want) {
				t.Errorf("%s: %d %s, want %s", filter, a.status, a.body, want)
			}
		}
	}
	if n := len(w.living()); n != 4 {
		t.Errorf("%d grants are left", n)
	}
	if a := w.ask("POST", "/revocations", `{"dry_run":true,"filter":{"proxy":"jira","all":false}}`); a.status != 200 || !strings.Contains(a.body, `"matched":2`) {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestOperatorsCanRevokeWhateverTheyAreCalled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(2)
	for name, label := range map[string]string{"joined": "Ann \U0001f469\u200d\U0001f4bb", "long": strings.Repeat("ann", 300), "no character": "Ann\U000e0fff", "broken": "Ann\xff", "two lines": "Ann\nBob"} {
		o, err := w.gateway.RevokeGrants(t.Context(), authserver.RevocationFilter{UserID: "user-0001"}, label, "")
		if err != nil || !strings.HasPrefix(strings.ToLower(o.By), "ann") || strings.ContainsAny(o.By, "\n\u200d\U000e0fff") || len([]rune(o.By)) > 500 {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
	}
}

func TestClientStaysWhereItsGrantsCannotBeEndedForTheReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(2)
	for name, reason := range map[string]string{"long": strings.Repeat("x", 501), "turned round": "a\u202eb"} {
		if a := w.ask("DELETE", "/clients/gateway_0001?"+url.Values{"reason": {reason}}.Encode(), ""); a.status != 400 || !strings.Contains(a.body, "reason must be") {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if a := w.ask("GET", "/clients/gateway_0001", ""); a.status != 200 {
			t.Errorf("%s: the client is gone: %d %s", name, a.status, a.body)
		}
	}
}
