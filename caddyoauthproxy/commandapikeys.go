package caddyoauthproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// apiKeyCommands are the commands for API keys.
func apiKeyCommands() []*cobra.Command {
	create := &cobra.Command{
		Use: "create-api-key", Short: "Makes an API key for programs that do no OAuth, and prints it, this once", Args: cobra.NoArgs,
		RunE: caddycmd.WrapCommandFuncForCobra(createAPIKey),
	}
	create.Flags().String("name", "", "what the key is for")
	create.Flags().StringArray("proxy", nil, "a proxy that the key is for; repeatable")
	create.Flags().StringArray("scope", nil, "a scope of the key; repeatable (default all of the proxies)")
	create.Flags().String("expires", "90d", "how long the key lives, at most 365d")
	return []*cobra.Command{
		{
			Use: "api-keys", Short: "Lists the API keys", Args: cobra.NoArgs,
			RunE: caddycmd.WrapCommandFuncForCobra(listAPIKeys),
		},
		create,
		{
			Use: "revoke-api-key <id>", Short: "Ends an API key, at once", Args: cobra.ExactArgs(1),
			RunE: caddycmd.WrapCommandFuncForCobra(runRevokeAPIKey),
		},
	}
}

func listAPIKeys(fl caddycmd.Flags) (int, error) {
	var keys []*authserver.APIKey
	if err := askAdmin(fl, http.MethodGet, "/oauth_proxy/api_keys", nil, &keys); err != nil {
		return 1, err
	}
	return printAPIKeys(fl, keys, keys)
}

// createAPIKey prints the key alone to standard output, for a script to catch, and what it is for beside it.
func createAPIKey(fl caddycmd.Flags) (int, error) {
	wanted := newAPIKey{Name: fl.String("name"), ExpiresIn: fl.String("expires")}
	var err error
	if wanted.Proxies, err = fl.GetStringArray("proxy"); err != nil {
		return 1, err
	}
	if fl.Changed("scope") {
		if wanted.Scopes, err = fl.GetStringArray("scope"); err != nil {
			return 1, err
		}
	}
	var created createdAPIKey
	if err := askAdmin(fl, http.MethodPost, "/oauth_proxy/api_keys", wanted, &created); err != nil {
		return 1, err
	}
	if fl.Bool("json") {
		return 0, json.NewEncoder(os.Stdout).Encode(created)
	}
	fmt.Fprintf(os.Stderr, "API key %s for %s (%s), until %s. It is shown only now:\n", created.ID, strings.Join(created.Proxies, ", "),
		strings.Join(created.Scopes, " "), created.Expires.UTC().Format(time.RFC3339))
	fmt.Fprintln(os.Stdout, created.Key)
	return 0, nil
}

// runRevokeAPIKey takes the key itself for its id, too. Only the id is sent: Caddy logs what the admin endpoint is asked for.
func runRevokeAPIKey(fl caddycmd.Flags) (int, error) {
	id := fl.Arg(0)
	if strings.Contains(id, tokenstore.APIKeyPrefix) {
		named, ok := authserver.APIKeyID(id)
		if !ok {
			return 1, errors.New("this is not a whole API key: give its id, which api-keys lists")
		}
		id = named
	}
	var key authserver.APIKey
	if err := askAdmin(fl, http.MethodDelete, "/oauth_proxy/api_keys/"+url.PathEscape(id), nil, &key); err != nil {
		return 1, err
	}
	return printAPIKeys(fl, &key, []*authserver.APIKey{&key})
}

// printAPIKeys prints keys as a table, or what was answered as JSON.
func printAPIKeys(fl caddycmd.Flags, answer any, keys []*authserver.APIKey) (int, error) {
	if fl.Bool("json") {
		return 0, json.NewEncoder(os.Stdout).Encode(answer)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KEY\tNAME\tPROXIES\tSCOPES\tEXPIRES\tLAST USED\tSTATE")
	for _, k := range keys {
		used := "never"
		if !k.Used.IsZero() {
			used = k.Used.UTC().Format(time.DateOnly)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Name, strings.Join(k.Proxies, ","), strings.Join(k.Scopes, " "),
			k.Expires.UTC().Format(time.RFC3339), used, k.State)
	}
	return 0, table.Flush()
}
