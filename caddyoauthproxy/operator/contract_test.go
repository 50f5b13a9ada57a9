package operator_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// described is what the OpenAPI document says of the answer to a route.
type described struct {
	Paths map[string]map[string]struct {
		Responses map[string]struct {
			Content map[string]struct {
				Schema json.RawMessage `json:"schema"`
			} `json:"content"`
		} `json:"responses"`
	} `json:"paths"`
}

// schemas finds the schemas of answers in the document. They are JSON Schema 2020-12 but for where their references lead.
type schemas struct {
	doc  described
	defs map[string]json.RawMessage
}

func readSchemas(t *testing.T) *schemas {
	t.Helper()
	document := strings.ReplaceAll(string(operator.Document()), "#/components/schemas/", "#/$defs/")
	s := new(schemas)
	var whole struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal([]byte(document), &whole); err != nil {
		t.Fatal(err)
	}
	for _, methods := range whole.Paths {
		delete(methods, "parameters")
	}
	operations, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(operations, &s.doc); err != nil {
		t.Fatal(err)
	}
	var parts struct {
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal([]byte(document), &parts); err != nil {
		t.Fatal(err)
	}
	s.defs = parts.Components.Schemas
	return s
}

// check holds an answer against what the document says.
func (s *schemas) check(t *testing.T, method, path string, a answer) {
	t.Helper()
	response, ok := s.doc.Paths[path][strings.ToLower(method)].Responses[fmt.Sprint(a.status)]
	if !ok {
		t.Errorf("%s %s: %d is not described: %s", method, path, a.status, a.body)
		return
	}
	if len(response.Content) == 0 {
		if a.body != "" {
			t.Errorf("%s %s: a body where none is described: %s", method, path, a.body)
		}
		return
	}
	var schema map[string]any
	if err := json.Unmarshal(response.Content["application/json"].Schema, &schema); err != nil {
		t.Fatal(err)
	}
	schema["$defs"] = s.defs
	raw, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	var parsed jsonschema.Schema
	if err := json.Unmarshal(raw, &parsed); err != nil {
		t.Fatal(err)
	}
	resolved, err := parsed.Resolve(nil)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	var value any
	a.decode(t, &value)
	if err := resolved.Validate(value); err != nil {
		t.Errorf("%s %s: %v: %s", method, path, err, a.body[:min(len(a.body), 2000)])
	}
}

// checkLines holds each line of an answer against what the document says.
func (s *schemas) checkLines(t *testing.T, method, path string, a answer) string {
	t.Helper()
	content := s.doc.Paths[path][strings.ToLower(method)].Responses[fmt.Sprint(a.status)].Content
	lines, ok := content["application/x-ndjson"]
	if !ok || a.header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%s %s: %d is not described as lines: %s", method, path, a.status, a.body)
	}
	content["application/json"] = lines
	for line := range strings.Lines(a.body) {
		one := a
		one.body = line
		s.check(t, method, path, one)
	}
	return a.body
}

// record puts events into the audit trail, and chains all but the last.
func (w *world) record(n int) (ids []string) {
	w.t.Helper()
	var writes []tokenstore.Write
	for i := range n {
		e := w.vault.NewEvent(w.t.Context(), tokenstore.EventGrantEnded)
		e.Actor = tokenstore.Actor{Kind: tokenstore.ActorClient, ID: "gateway_0001", Label: hostile}
		e.UserID, e.User, e.ClientID, e.Client, e.Proxy, e.Provider = "user-0001", "-2+3", "gateway_0001", hostile, "jira", "idp"
		e.Grant, e.Account, e.Address, e.Reason = fmt.Sprintf("grant-%04d", i), "account-0001", "192.0.2.1", "@SUM(A1)"
		e.Details = map[string]string{"how": "=1+1"}
		ids, writes = append(ids, e.ID), append(writes, tokenstore.RecordEvent(e))
		if len(writes) < 100 && i < n-2 {
			continue
		}
		if err := w.vault.Commit(w.t.Context(), writes...); err != nil {
			w.t.Fatal(err)
		}
		writes = nil
		if i == n-2 {
			if err := w.vault.FlushAudit(w.t.Context()); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	return ids
}

// Every route answers as the document says, whatever strangers call themselves, and nothing that it says holds a secret of the vault.
func TestT79T80AnswersAreAsDescribedAndHoldNoSecret(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), readSchemas(t)
	w.fill(100)
	events := w.record(5)
	var keys []struct{ ID string }
	w.ask("GET", "/api_keys", "").decode(t, &keys)
	var seen strings.Builder
	see := func(method, route, path, body string) answer {
		t.Helper()
		a := w.ask(method, path, body)
		s.check(t, method, route, a)
		seen.WriteString(a.body)
		if a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Content-Type-Options") != "nosniff" && a.status != http.StatusNoContent {
			t.Errorf("%s %s: %v", method, path, a.header)
		}
		return a
	}
	done := make(map[string]bool)
	for _, r := range [][4]string{
		{"GET", "/openapi.json", "/openapi.json"},
		{"GET", "/tokens", "/tokens?limit=1000"}, {"GET", "/grants", "/grants?proxy=wiki&health=valid&sort=-user&limit=7"},
		{"GET", "/tokens/{id}", "/tokens/grant-0001"}, {"GET", "/grants/{id}", "/grants/grant-0002"},
		{"DELETE", "/tokens/{id}", "/tokens/grant-0001?reason=no+more"}, {"DELETE", "/grants/{id}", "/grants/grant-0002"},
		{"GET", "/tokens/{id}", "/tokens/grant-0001"},
		{"POST", "/revocations", "/revocations", `{"filter":{"user_id":"user-0003"},"dry_run":true}`},
		{"POST", "/revocations", "/revocations", `{"filter":{"user_id":"user-0003"},"reason":"left"}`},
		{"GET", "/revocations", "/revocations"},
		{"GET", "/clients", "/clients?limit=1000"}, {"GET", "/clients/{id}", "/clients/report-bot"}, {"GET", "/clients/{id}", "/clients/gateway_0001"},
		{"DELETE", "/clients/{id}", "/clients/gateway_0004"},
		{"GET", "/sessions", "/sessions?limit=1000"}, {"DELETE", "/sessions/{id}", "/sessions/signin-0001"},
		{"GET", "/api_keys", "/api_keys"}, {"DELETE", "/api_keys/{id}", "/api_keys/" + keys[0].ID},
		{"GET", "/signing_keys", "/signing_keys"}, {"POST", "/signing_keys/rotate", "/signing_keys/rotate"},
		{"GET", "/audit", "/audit?client_id=gateway_0001"}, {"GET", "/audit/{id}", "/audit/" + events[0]}, {"GET", "/audit/{id}", "/audit/" + events[4]},
		{"GET", "/audit/verify", "/audit/verify"},
		{"POST", "/assistant", "/assistant", `{"template":"github","client_id":"Iv1.abc"}`},
		{"GET", "/stats", "/stats"}, {"GET", "/proxies", "/proxies"}, {"GET", "/providers", "/providers"}, {"GET", "/vault", "/vault"},
		{"GET", "/rekey", "/rekey"}, {"POST", "/rekey", "/rekey"}, {"GET", "/rekey", "/rekey?follow=false"}, {"GET", "/vault", "/vault"},
		{"GET", "/migration", "/migration"}, {"POST", "/migration", "/migration", `{"vault":{"module":"bbolt","path":"/new.db"}}`},
		{"POST", "/migration", "/migration", `{"vault":{"module":"bbolt"},"encryption_keys":["{env.KEY}"],"dry_run":true}`}, {"DELETE", "/migration", "/migration"},
	} {
		see(r[0], r[1], r[2], r[3])
		done[r[0]+" "+r[1]] = true
	}
	var order struct{ ID, By string }
	if a := see("POST", "/revocations", "/revocations", `{"filter":{"all":true}}`); a.status != http.StatusAccepted {
		t.Errorf("%d %s", a.status, a.body)
	} else {
		a.decode(t, &order)
	}
	if order.By != "admin endpoint" {
		t.Errorf("by %q", order.By)
	}
	see("GET", "/revocations/{id}", "/revocations/"+url.PathEscape(order.ID), "")
	done["GET /revocations/{id}"] = true
	for _, format := range []string{"jsonl", "csv"} {
		seen.WriteString(w.ask("GET", "/audit/export?format="+format, "").body)
	}
	done["GET /audit/export"] = true
	seen.WriteString(w.ask("POST", "/compact", "").body)
	done["POST /compact"] = true
	for _, secret := range secrets {
		if i := strings.Index(seen.String(), secret); i >= 0 {
			t.Errorf("there is %q: …%s", secret, seen.String()[max(0, i-200):i+50])
		}
	}
	if seen.Len() < 100_000 {
		t.Errorf("only %d bytes were seen: the test is no good", seen.Len())
	}
	seen.WriteString(s.checkLines(t, "GET", "/verify", w.ask("GET", "/verify", "")))
	done["GET /verify"] = true
	// The one answer with a credential is that to the request for one.
	a := w.ask("POST", "/api_keys", `{"name":"x","proxies":["wiki"]}`)
	s.check(t, "POST", "/api_keys", a)
	done["POST /api_keys"] = true
	var made struct{ Key string }
	if a.decode(t, &made); !strings.HasPrefix(made.Key, tokenstore.APIKeyPrefix) || strings.Contains(w.ask("GET", "/api_keys", "").body, made.Key) {
		t.Errorf("%s", a.body)
	}
	for _, r := range operator.Routes() {
		if !done[r.Method+" "+r.Path] {
			t.Errorf("%s %s was not tried", r.Method, r.Path)
		}
	}
}
