package caddyoauthproxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"text/tabwriter"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "oauth-proxy",
		Short: "Checks the OAuth gateway's configuration, and operates that of a running Caddy",
		Long:  "Checks the OAuth gateway's configuration (doctor), or operates the gateway of a running Caddy, by its admin endpoint.",
		CobraFunc: func(cmd *cobra.Command) {
			cmd.PersistentFlags().String("address", "", "the admin endpoint's address, where it is not the usual one")
			cmd.PersistentFlags().StringP("config", "c", "", "the config file: which to check, or where the admin endpoint's address stands")
			cmd.PersistentFlags().StringP("adapter", "a", "", "the config file's adapter")
			cmd.PersistentFlags().Bool("json", false, "print JSON")
			cmd.AddCommand(&cobra.Command{
				Use: "signing-keys", Short: "Lists the keys that access tokens are signed with", Args: cobra.NoArgs,
				RunE: caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
					return askSigningKeys(fl, http.MethodGet, "/oauth_proxy/signing_keys")
				}),
			})
			rotate := &cobra.Command{
				Use: "rotate-signing-key", Short: "Makes a new signing key, which takes over in ten minutes", Args: cobra.NoArgs,
				RunE: caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
					return askSigningKeys(fl, http.MethodPost, fmt.Sprintf("/oauth_proxy/signing_keys/rotate?compromised=%t", fl.Bool("compromised")))
				}),
			}
			rotate.Flags().Bool("compromised", false, "the new key takes over now and all others are dropped, which ends every access token")
			cmd.AddCommand(rotate)
			cmd.AddCommand(apiKeyCommands()...)
			cmd.AddCommand(&cobra.Command{
				Use: "doctor", Short: "Checks providers and proxies before the first login, and says what to fix", Args: cobra.NoArgs,
				RunE: caddycmd.WrapCommandFuncForCobra(runDoctor),
			})
		},
	})
}

// askSigningKeys sends a request to the admin endpoint, and prints the keys that it answers.
func askSigningKeys(fl caddycmd.Flags, method, path string) (int, error) {
	var keys []authserver.SigningKey
	if err := askAdmin(fl, method, path, nil, &keys); err != nil {
		return 1, err
	}
	if fl.Bool("json") {
		return 0, json.NewEncoder(os.Stdout).Encode(keys)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KEY\tALGORITHM\tSIGNS FROM\tSTATE")
	for _, k := range keys {
		state := "verifies"
		switch {
		case k.Active:
			state = "signs"
		case k.Signs.After(time.Now()):
			state = "waits"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", k.ID, k.Algorithm, k.Signs.UTC().Format(time.RFC3339), state)
	}
	return 0, table.Flush()
}

// askAdmin sends a request to the admin endpoint, with a body as JSON if there is one, and reads what it answers.
func askAdmin(fl caddycmd.Flags, method, path string, body, answer any) error {
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
	if err != nil {
		return fmt.Errorf("admin endpoint's address: %w", err)
	}
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(raw)
	}
	resp, err := caddycmd.AdminAPIRequest(address, method, path, nil, content)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("answer of the admin endpoint: %w", err)
	}
	return nil
}
