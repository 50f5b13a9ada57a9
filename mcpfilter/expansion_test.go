package mcpfilter_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Users choose their names, chatbots theirs, and both choose what they send. Caddy expands placeholders in what operators write, once.
func TestT79WhatUsersAndClientsAreCalledIsNotExpanded(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("THE-SECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	evil := "{file." + secret + "} {env.PATH} {mcp.grant} {http.request.header.Authorization} \\{mcp.grant\\}"
	for _, site := range []string{viaProxy, viaHeader} {
		g, up := newGateway(t), new(recorder)
		g.identityHeaders = map[string]string{"X-Acme-Name": "name", "X-Acme-Login": "login", "X-Acme-Groups": "groups", "X-Acme-Org": "org", "X-Acme-Client-Name": "client_name"}
		g.change = func(grant *tokenstore.Grant) {
			grant.Client, grant.User.Name, grant.User.Login, grant.User.Org, grant.User.Groups = evil, evil, evil, evil, []string{evil}
		}
		const seen = "{http.auth.user.login}|{http.auth.user.name}|{mcp.client_name}|{mcp.protocol_version}|{mcp.name}"
		s := startCaddy(t, g, resource, site+` {
		header_up X-Seen "`+seen+`"
		header_up X-Control "{file.`+secret+`}"
	}`, up)
		body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + strings.ReplaceAll(evil, `\`, `\\`) + `"}}`
		wantStatus(t, s.request(t, http.MethodPost, "/jira/mcp", map[string]string{"Mcp-Protocol-Version": evil}, body), http.StatusOK)
		if got := up.last(t).Header.Get("X-Seen"); !strings.HasPrefix(got, evil+"|"+evil+"|"+evil+"|"+evil+"|") {
			t.Errorf("placeholders: %q", got)
		}
		if got := up.last(t).Header.Get("X-Control"); got != "THE-SECRET" {
			t.Errorf("the operator's own placeholder gives %q: the test is no good", got)
		}
		for header, values := range up.last(t).Header {
			if header == "X-Control" {
				continue
			}
			for _, value := range values {
				if strings.Contains(value, "THE-SECRET") || strings.Contains(value, "grant-1") || header != "Authorization" && strings.Contains(value, "good-token") {
					t.Errorf("%s: %q", header, value)
				}
			}
		}
		for header := range g.identityHeaders {
			if got := up.last(t).Header.Get(header); got != evil {
				t.Errorf("%s: %q, want %q", header, got, evil)
			}
		}
		if log := strings.ReplaceAll(s.log.String(), `"X-Control":["THE-SECRET"]`, ""); strings.Contains(log, "THE-SECRET") {
			t.Errorf("the log holds the file: %s", log)
		}
	}
}
