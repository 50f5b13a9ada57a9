package operator

import (
	"cmp"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

// providerBadge says how a provider answers.
func providerBadge(h upstream.ProviderHealth) *console.Badge {
	switch h.State {
	case upstream.HealthOK:
		return &console.Badge{Kind: "valid", Text: "Answers"}
	case upstream.HealthFailing:
		return &console.Badge{Kind: "broken", Text: "Failing"}
	default:
		return &console.Badge{Kind: "unknown", Text: "Not asked yet"}
	}
}

// failureClasses say in words how a request to a provider failed.
var failureClasses = map[upstream.Class]string{
	upstream.Misconfigured: "It refuses the gateway itself: check client_id, client_secret and the redirect URI.",
	upstream.Throttled:     "It asks for patience.",
	upstream.Unreachable:   "No answer came, or a server error.",
	upstream.Malformed:     "Its answer was not what the protocol demands.",
	upstream.Clock:         "Its clock and the gateway’s disagree.",
}

// providers is GET /admin/providers.
func (p *AdminPages) providers(v *visit) error {
	v.query()
	infos, err := v.Server.providerInfos(v.ctx())
	if err != nil {
		return err
	}
	section := console.Section{Title: "Providers", Lead: "As this node sees them, since its configuration was loaded."}
	for _, info := range infos {
		section.Cards = append(section.Cards, v.providerCard(info))
	}
	proxies, err := v.proxySection()
	if err != nil {
		return err
	}
	vault, err := v.vaultSection()
	if err != nil {
		return err
	}
	v.options.Pages.Sheet(v.w, v.frame(), console.Sheet{Title: "Providers and proxies", Sections: []console.Section{section, proxies, vault}})
	return nil
}

func (v *visit) providerCard(info ProviderInfo) console.Card {
	card := console.Card{Title: info.Name}
	all := facts(
		fact("Type", info.Type), code("Issuer", info.Issuer), code("MCP server", info.Server), code("Client id", info.ClientID), code("Redirect URI to register", info.RedirectURI),
		listed("Scopes", info.Scopes), linked("Accounts", grouped(info.Accounts), v.grantsLink("provider", info.Name)), fact("Proxies", cmp.Or(strings.Join(info.Proxies, ", "), "none")),
	)
	h, ok := v.Health(info.Name)
	if !ok {
		card.Facts = all
		return card
	}
	card.Badge = providerBadge(h)
	if h.State == upstream.HealthFailing {
		card.Reason = failureClasses[h.LastFailureClass]
		if h.FailuresInRow > 1 {
			card.Reason += " " + grouped(h.FailuresInRow) + " requests in a row have failed."
		}
	}
	last := facts(
		console.Fact{Name: "Last good answer", Value: v.ago(h.LastSuccess)}, console.Fact{Name: "Last failure", Value: v.ago(h.LastFailure)},
		console.Fact{Name: "Refreshes held back until", Value: console.Value{Time: h.GateClosedUntil}},
		console.Fact{Name: "Metadata read", Value: v.ago(h.MetadataRead)}, console.Fact{Name: "Keys read", Value: v.ago(h.KeysRead)},
	)
	card.Facts = append(last, all...)
	return card
}

// proxySection lists the proxies, and what to give to a chatbot.
func (v *visit) proxySection() (console.Section, error) {
	infos, err := v.Server.proxyInfos(v.ctx())
	if err != nil {
		return console.Section{}, err
	}
	table := &console.Table{Caption: "Proxies", Columns: []console.Column{
		{Title: "Proxy"}, {Title: "MCP URL for chatbots", Wide: true}, {Title: "Provider"}, {Title: "Grants", Number: true}, {Title: "Scopes"}, {Title: "Consent"}, {Title: "Connect", Plain: true},
	}}
	for _, p := range infos {
		provider := noted(p.Provider, "", "")
		if p.Login != "" {
			provider.Note = "users log in at " + p.Login
		}
		if p.Machines {
			provider.Note = "open to API keys"
		}
		row := []console.Cell{
			noted(p.Name, "", p.ID), {Value: console.Value{Text: p.Resource, Code: true}}, provider, text(grouped(p.Grants), v.grantsLink("proxy", p.ID)),
			{Value: console.Value{List: p.Scopes}}, text(cmp.Or(p.Consent, "always"), ""), {},
		}
		if p.ConnectURL != "" {
			row[6].Action = &console.Action{Text: "Connect", Link: p.ConnectURL, About: "your own account to " + p.Name}
		}
		table.Rows = append(table.Rows, row)
	}
	section := console.Section{Title: "Proxies", Lead: "Give the MCP URL to a chatbot as a remote MCP server; it does the rest. Connect tries it with your own account, without any chatbot.", Table: table}
	if len(infos) == 0 {
		section.Table, section.Empty = nil, &console.Empty{Title: "No proxy is configured", Text: "The assistant writes the lines for one.", Link: v.link("/admin/assistant", nil), LinkText: "Assistant"}
	}
	return section, nil
}

// vaultSection says where everything is kept.
func (v *visit) vaultSection() (console.Section, error) {
	state, err := v.options.Vault.State(v.ctx())
	if err != nil {
		return console.Section{}, err
	}
	storage := v.options.Storage
	keys := fact("Encryption keys", number(storage.Keys, "is configured", "are configured"))
	if storage.Keys == 0 {
		keys = fact("Encryption keys", "one, beside the vault: back it up apart from it")
	}
	all := facts(fact("Kept by", storage.Module), code("File", storage.Path), code("Server", strings.Join(storage.Hosts, ", ")), code("Database", storage.Database),
		code("Schema", storage.Schema), keys, code("Encrypted with key", state.EncryptionKey), fact("Format", grouped(state.Format)))
	for _, kind := range slices.Sorted(maps.Keys(state.Records)) {
		if n := state.Records[kind]; n > 0 {
			all = append(all, fact("Records: "+string(kind), grouped(n)))
		}
	}
	return console.Section{Title: "Vault", Lead: "Every record is sealed. Which key it is sealed with can be told from its id; the key cannot.", Facts: all,
		Actions: []console.Action{{Text: "Revocations", Link: v.link("/admin/revocations", nil)}, {Text: "Signing keys", Link: v.link("/admin/keys", url.Values{})}}}, nil
}
