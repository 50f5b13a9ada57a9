package caddyoauthproxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// apiKeyCommands are the commands for API keys.
func apiKeyCommands() []*cobra.Command {
	create := &cobra.Command{
		Use: "create-api-key", Short: "Makes an API key for programs that do no OAuth, and prints it, this once", Args: usage(cobra.NoArgs),
		RunE: operate((*call).createAPIKey),
	}
	create.Flags().String("name", "", "what the key is for")
	create.Flags().StringArray("proxy", nil, "a proxy that the key is for; repeatable")
	create.Flags().StringArray("scope", nil, "a scope of the key; repeatable (default all of the proxies)")
	create.Flags().String("expires", "90d", "how long the key lives, at most 365d")
	return []*cobra.Command{
		{
			Use: "api-keys", Short: "Lists the API keys", Args: usage(cobra.NoArgs),
			RunE: operate((*call).listAPIKeys),
		},
		create,
		{
			Use: "revoke-api-key <id>", Short: "Ends an API key, at once", Args: usage(cobra.ExactArgs(1)),
			RunE: operate((*call).revokeAPIKey),
		},
	}
}

func (c *call) listAPIKeys() error {
	var keys []*authserver.APIKey
	if err := c.ask(http.MethodGet, "/api_keys", nil, nil, &keys); err != nil {
		return err
	}
	return c.printAPIKeys(keys, keys)
}

// createAPIKey prints the key alone to standard output, for a script to catch, and what it is for beside it.
func (c *call) createAPIKey() error {
	wanted := operator.NewAPIKey{Name: c.String("name"), ExpiresIn: c.String("expires")}
	var err error
	if wanted.Proxies, err = c.GetStringArray("proxy"); err != nil {
		return err
	}
	if c.Changed("scope") {
		if wanted.Scopes, err = c.GetStringArray("scope"); err != nil {
			return err
		}
	}
	var created operator.CreatedAPIKey
	if err := c.ask(http.MethodPost, "/api_keys", nil, wanted, &created); err != nil {
		return err
	}
	if c.Bool("json") {
		return json.NewEncoder(c.out).Encode(created)
	}
	fmt.Fprintf(os.Stderr, "API key %s for %s (%s), until %s. It is shown only now:\n", created.ID, strings.Join(created.Proxies, ", "),
		strings.Join(created.Scopes, " "), moment(created.Expires))
	_, err = fmt.Fprintln(c.out, created.Key)
	return err
}

// revokeAPIKey takes the key itself for its id, too. Only the id is sent: Caddy logs what the admin endpoint is asked for.
func (c *call) revokeAPIKey() error {
	id := c.Arg(0)
	if strings.Contains(id, tokenstore.APIKeyPrefix) {
		named, ok := authserver.APIKeyID(id)
		if !ok {
			return badUsage("this is not a whole API key: give its id, which api-keys lists")
		}
		id = named
	}
	var key authserver.APIKey
	if err := c.ask(http.MethodDelete, "/api_keys/"+url.PathEscape(id), nil, nil, &key); err != nil {
		return err
	}
	return c.printAPIKeys(&key, []*authserver.APIKey{&key})
}

// printAPIKeys prints keys as a table, or what was answered as JSON.
func (c *call) printAPIKeys(answer any, keys []*authserver.APIKey) error {
	return c.print(answer, func() error {
		rows := make([][]string, 0, len(keys))
		for _, k := range keys {
			used := "never"
			if !k.Used.IsZero() {
				used = k.Used.UTC().Format(time.DateOnly)
			}
			rows = append(rows, []string{k.ID, k.Name, strings.Join(k.Proxies, ","), strings.Join(k.Scopes, " "), moment(k.Expires), used, k.State})
		}
		return c.table([]string{"KEY", "NAME", "PROXIES", "SCOPES", "EXPIRES", "LAST USED", "STATE"}, rows)
	})
}
