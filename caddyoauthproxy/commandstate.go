package caddyoauthproxy

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// stateCommands are the commands that say how the gateway does.
func stateCommands() []*cobra.Command {
	return []*cobra.Command{
		{
			Use: "stats", Short: "Counts what there is of everything", Args: usage(cobra.NoArgs),
			RunE: operate((*call).showStats),
		},
		{
			Use: "providers", Short: "Lists the providers and how they do", Args: usage(cobra.NoArgs),
			RunE: operate((*call).listProviders),
		},
		{
			Use: "proxies", Short: "Lists the proxies, with the links that users connect them by", Args: usage(cobra.NoArgs),
			RunE: operate((*call).listProxies),
		},
		{
			Use: "vault", Short: "Says where the vault is, which key encrypts it, and what is in it", Args: usage(cobra.NoArgs),
			RunE: operate((*call).showVault),
		},
	}
}

// more says on standard error that a list goes on.
func (c *call) more(next string) error {
	if next == "" {
		return nil
	}
	_, err := fmt.Fprintln(c.notes(), "There are more: --all lists them.")
	return err
}

func (c *call) listProviders() error {
	var answer operator.ProviderList
	if err := c.ask(http.MethodGet, "/providers", nil, nil, &answer); err != nil {
		return err
	}
	return c.print(answer, func() error {
		rows := make([][]string, 0, len(answer.Providers))
		for _, p := range answer.Providers {
			state := string(p.Health.State)
			switch {
			case p.Health.GateClosed:
				state += ", refreshes held back until " + moment(p.Health.GateClosedUntil)
			case p.Health.State == upstream.HealthFailing:
				state += ", " + string(p.Health.LastFailureClass) + " since " + orNone(moment(p.Health.LastSuccess))
			}
			rows = append(rows, []string{p.Name, p.Type, state, strings.Join(p.Proxies, ","), strconv.Itoa(p.Accounts), p.RedirectURI})
		}
		return c.table([]string{"PROVIDER", "TYPE", "STATE", "PROXIES", "ACCOUNTS", "REDIRECT URI"}, rows)
	})
}

func (c *call) listProxies() error {
	var answer operator.ProxyList
	if err := c.ask(http.MethodGet, "/proxies", nil, nil, &answer); err != nil {
		return err
	}
	return c.print(answer, func() error {
		rows := make([][]string, 0, len(answer.Proxies))
		for _, p := range answer.Proxies {
			rows = append(rows, []string{p.ID, p.Resource, p.Provider, strconv.Itoa(p.Grants), p.Consent, p.ConnectURL})
		}
		return c.table([]string{"PROXY", "RESOURCE", "PROVIDER", "GRANTS", "CONSENT", "TO CONNECT"}, rows)
	})
}

func (c *call) showVault() error {
	var v operator.VaultInfo
	if err := c.ask(http.MethodGet, "/vault", nil, nil, &v); err != nil {
		return err
	}
	return c.print(v, func() error {
		key := "beside the vault"
		if v.Keys > 0 {
			key = "configured, " + strconv.Itoa(v.Keys) + " in all"
		}
		where := [][2]string{{"path", v.Path}}
		if v.Database != "" {
			where = [][2]string{{"server", strings.Join(v.Hosts, ", ")}, {"database", v.Database}, {"schema", v.Schema}}
		}
		fields := make([][2]string, 0, 6+len(v.Records))
		fields = append(append(fields, [2]string{"vault", v.Module}), where...)
		fields = append(fields, [][2]string{
			{"format", strconv.Itoa(v.Format)}, {"encryption key", v.EncryptionKey + " (" + key + ")"},
		}...)
		for _, name := range v.RemovableKeys {
			fields = append(fields, [2]string{"not needed", name + " encrypts nothing: take it out of encryption_key, and keep it only for older backups"})
		}
		for _, key := range v.VaultKeys {
			state := "since " + moment(key.Created)
			if !key.Seals {
				state += ", opens only"
			}
			fields = append(fields, [2]string{"key for " + key.Use, key.ID + " (" + state + ")"})
		}
		for _, kind := range slices.Sorted(maps.Keys(v.Records)) {
			fields = append(fields, [2]string{string(kind), strconv.Itoa(v.Records[kind])})
		}
		return c.describe(fields)
	})
}

func (c *call) showStats() error {
	var s operator.Stats
	if err := c.ask(http.MethodGet, "/stats", nil, nil, &s); err != nil {
		return err
	}
	return c.print(s, func() error {
		var fields [][2]string
		for _, h := range tokenstore.Healths() {
			fields = append(fields, [2]string{"grants " + string(h), strconv.Itoa(s.Grants[h])})
		}
		for _, p := range slices.Sorted(maps.Keys(s.Proxies)) {
			fields = append(fields, [2]string{"grants for " + p, strconv.Itoa(s.Proxies[p])})
		}
		return c.describe(append(fields, [][2]string{
			{"clients registered", strconv.Itoa(s.Clients)}, {"of these never used", strconv.Itoa(s.UnusedClients)}, {"open logins", strconv.Itoa(s.OpenLogins)},
			{"API keys", strconv.Itoa(s.APIKeys)}, {"signed in", strconv.Itoa(s.Sessions)},
		}...))
	})
}
