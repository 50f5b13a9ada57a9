package caddyoauthproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// assistantCommand writes the configuration of a proxy.
func assistantCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "assistant", Short: "Writes the configuration of a provider and a proxy, checked against what is there", Args: usage(cobra.NoArgs),
		Long: `Writes the Caddyfile block, or with --json also its JSON for Caddy's config API, of a provider and a proxy, and the redirect URI to register.
It is checked against the gateway of the running Caddy, or that of --config, or with --issuer made for one that does not exist yet. Nothing is changed.`,
		Example: "caddy oauth-proxy assistant --template okta --set domain=acme.okta.com --set 'client_id={env.OKTA_ID}' --set 'client_secret={env.OKTA_SECRET}' --proxy jira --upstream https://jira-mcp.internal/mcp",
		RunE:    operate((*call).assist),
	}
	cmd.Flags().String("template", "", "the type of the new provider")
	cmd.Flags().String("provider", "", "the provider's name; without --template, one that exists")
	cmd.Flags().String("proxy", "", "the proxy's id")
	cmd.Flags().String("upstream", "", "the URL of the MCP server")
	cmd.Flags().StringArray("set", nil, "another field, as name=value; repeatable, also for one field: lists grow")
	cmd.Flags().String("issuer", "", "the issuer of a gateway that does not exist yet")
	return cmd
}

func (c *call) assist() error {
	draft := make(operator.Draft)
	for _, name := range []string{"template", "provider", "proxy", "upstream"} {
		draft[name] = c.String(name)
	}
	settings, err := c.GetStringArray("set")
	if err != nil {
		return err
	}
	for _, s := range settings {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return badUsage("--set takes a name and a value, such as domain=acme.okta.com, not %q", name)
		}
		if draft[name] != "" {
			value = draft[name] + "\n" + value
		}
		draft[name] = value
	}
	app, err := c.assistedApp()
	if err != nil {
		return err
	}
	r := app.assistant().Draw(draft)
	if err := c.print(r, func() error {
		_, err := io.WriteString(c.out, r.Caddyfile)
		return err
	}); err != nil {
		return err
	}
	if len(r.Problems) > 0 {
		for _, p := range r.Problems {
			fmt.Fprintln(c.notes(), p.Text)
		}
		return errProblems
	}
	if r.RedirectURI != "" {
		fmt.Fprintf(c.notes(), "\nredirect URI to register at the provider: %s\n", r.RedirectURI)
	}
	return nil
}

// assistedApp is the gateway that is added to: that of a config file, of the running Caddy, or none yet.
func (c *call) assistedApp() (*App, error) {
	if issuer := c.String("issuer"); issuer != "" {
		return &App{Issuer: issuer}, nil
	}
	if file := c.String("config"); file != "" {
		return readApp(file, c.String("adapter"))
	}
	address := c.String("address")
	if address == "" {
		address = caddy.DefaultAdminListen
	}
	const orElse = "name its address with --address, a config file with --config, or with --issuer the gateway that is to be"
	resp, err := caddycmd.AdminAPIRequest(address, http.MethodGet, "/config/apps/"+mcpfilter.AppName, nil, nil)
	if err != nil {
		return nil, &commandError{exitUnreachable, fmt.Errorf("the running Caddy shows no gateway: %w; %s", err, orElse)}
	}
	defer resp.Body.Close()
	var app *App
	if err := json.NewDecoder(resp.Body).Decode(&app); err != nil {
		return nil, fmt.Errorf("the gateway of the running Caddy: %w", err)
	}
	if app == nil {
		return nil, &commandError{exitUnreachable, errors.New("the running Caddy has no gateway; " + orElse)}
	}
	return app, nil
}

// readApp reads the app of a config file.
func readApp(file, adapter string) (*App, error) {
	raw, _, _, err := caddycmd.LoadConfig(file, adapter)
	if err != nil {
		return nil, err
	}
	var config struct {
		Apps map[string]json.RawMessage `json:"apps"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if config.Apps[mcpfilter.AppName] == nil {
		return nil, fmt.Errorf("%s: has no oauth_proxy option", file)
	}
	app := &App{alone: true}
	if err := caddy.StrictUnmarshalJSON(config.Apps[mcpfilter.AppName], app); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return app, nil
}
