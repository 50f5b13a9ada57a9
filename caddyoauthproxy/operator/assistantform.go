package operator

import (
	"slices"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// fieldKind says how a field is filled in.
type fieldKind string

const (
	fieldText   fieldKind = "text"
	fieldLines  fieldKind = "lines"
	fieldChoice fieldKind = "choice"
	fieldCheck  fieldKind = "check"
)

// field is one of the form's.
type field struct {
	name, label, help string
	kind              fieldKind
	required          bool
	value             string // to begin with
	choices           []string
}

// serverFields are the form's fields for the proxy and the MCP server behind it.
var serverFields = []field{
	{name: "proxy", label: "Proxy id", kind: fieldText, required: true, help: "letters, digits, - and _: it becomes a part of URLs, such as jira"},
	{name: "upstream", label: "MCP server", kind: fieldText, required: true, help: "the URL of the MCP server, such as https://jira-mcp.internal/mcp"},
	{name: "resource", label: "URL for chatbots", kind: fieldText, help: "left empty, it is the issuer, the id and /mcp"},
	{name: "name", label: "Name", kind: fieldText, help: "what people read on the consent page; left empty, the id"},
	{name: "allow", label: "Who may come in", kind: fieldLines, help: "a rule in each line, such as email_domain example.com, email, user, login, group or org; left empty, every user of the provider"},
	{name: "proxy_scopes", label: "Scopes of the gateway", kind: fieldText, help: "what chatbots ask the gateway for, apart by spaces; left empty, mcp"},
	{name: "allowed_redirects", label: "Redirect URIs of chatbots", kind: fieldText, help: "URIs, patterns, or chatgpt, claude, cursor, inspector, loopback, vscode; left empty, all that are safe"},
	{
		name: "consent", label: "Consent", kind: fieldChoice, choices: []string{"", "always", "remember", "off", "off unsafe"},
		help: "when users are asked whether a chatbot may act for them; left empty, as the gateway's setting",
	},
	{name: "compat", label: "Help simple chatbots", kind: fieldCheck, help: "those that know neither event streams nor sessions"},
}

// templateFieldLabels name the fields that some templates take, in the form's order.
var templateFieldLabels = []struct{ name, label string }{
	{"server", "MCP server with OAuth"}, {"domain", "Domain"}, {"tenant", "Directory (tenant) id"}, {"issuer", "Issuer"}, {"authorization_server", "Authorization server"}, {"audience", "Audience"},
	{"authorization_url", "Authorization URL"}, {"token_url", "Token URL"}, {"userinfo_url", "Userinfo URL"}, {"subject_field", "Subject field"}, {"revocation_url", "Revocation URL"},
}

// providerFields are the form's fields for a new provider.
func providerFields(t upstream.Template) []field {
	variable := strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(t.Name))
	fields := []field{{name: "provider", label: "Provider name", kind: fieldText, required: true, value: t.Name, help: "what the configuration calls it"}}
	for _, f := range templateFieldLabels {
		if needs := slices.Contains(t.Needs, f.name); needs || slices.Contains(t.Takes, f.name) {
			fields = append(fields, field{name: f.name, label: f.label, kind: fieldText, required: needs, help: upstream.Hint(f.name)})
		}
	}
	id := field{
		name: "client_id", label: "Client id", kind: fieldText, required: true, value: "{env." + variable + "_CLIENT_ID}",
		help: "what the provider calls the gateway: the id itself, or a placeholder for it",
	}
	secret := field{
		name: "client_secret", label: "Where the client secret is", kind: fieldText, value: "{env." + variable + "_CLIENT_SECRET}",
		help: "a placeholder, {env.NAME} or {file./absolute/path}, and never the secret itself, which would show in Caddy's config API and its autosave file",
	}
	if t.Registers {
		id.required, id.value, secret.value = false, "", ""
		id.help = "left empty, the gateway registers itself"
		fields = append(fields, field{name: "private_network", label: "In a private network", kind: fieldCheck, help: "the MCP server and its authorization server have private addresses"})
	}
	scopes := "what the MCP server needs, apart by spaces"
	if len(t.Scopes) > 0 {
		scopes += "; asked for in any case: " + strings.Join(t.Scopes, " ")
	}
	return append(fields, id, secret,
		field{name: "scopes", label: "Scopes", kind: fieldText, value: strings.Join(t.Recommended, " "), help: scopes},
		field{
			name: "token_endpoint_auth_method", label: "Client authentication", kind: fieldChoice, choices: []string{"", upstream.AuthBasic, upstream.AuthPost, upstream.AuthNone},
			help: "left empty, what suits the provider; none for a public client, without a secret",
		})
}
