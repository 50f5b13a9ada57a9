package caddyoauthproxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "oauth-proxy",
		Short: "Checks the OAuth gateway's configuration, and operates that of a running Caddy",
		Long: `Checks the OAuth gateway's configuration (doctor), or operates the gateway of a running Caddy, by its admin endpoint.

Exit codes: 0 done; 1 failed, or problems found; 2 bad usage; 3 not found; 4 gateway not reachable.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.PersistentFlags().String("address", "", "the admin endpoint's address, where it is not the usual one")
			cmd.PersistentFlags().StringP("config", "c", "", "the config file: which to check, or where the admin endpoint's address stands")
			cmd.PersistentFlags().StringP("adapter", "a", "", "the config file's adapter")
			cmd.PersistentFlags().Bool("json", false, "print JSON")
			cmd.SetFlagErrorFunc(wrongUsage)
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return wrongUsage(cmd, fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()))
				}
				return cmd.Help()
			}
			cmd.AddCommand(grantCommands()...)
			cmd.AddCommand(revocationCommands()...)
			cmd.AddCommand(clientCommands()...)
			cmd.AddCommand(auditCommands()...)
			cmd.AddCommand(sessionCommands()...)
			cmd.AddCommand(stateCommands()...)
			cmd.AddCommand(signingKeyCommands()...)
			cmd.AddCommand(apiKeyCommands()...)
			cmd.AddCommand(migrateCommand())
			cmd.AddCommand(verifyCommand())
			cmd.AddCommand(rekeyCommand())
			cmd.AddCommand(compactCommand())
			cmd.AddCommand(assistantCommand())
			cmd.AddCommand(&cobra.Command{
				Use: "doctor", Short: "Checks providers and proxies before the first login, and says what to fix", Args: usage(cobra.NoArgs),
				RunE: caddycmd.WrapCommandFuncForCobra(runDoctor),
			})
		},
	})
}

// signingKeyCommands are the commands for the keys that access tokens are signed with.
func signingKeyCommands() []*cobra.Command {
	rotate := &cobra.Command{
		Use: "rotate-signing-key", Short: "Makes a new signing key, which takes over in ten minutes", Args: usage(cobra.NoArgs),
		RunE: operate(func(c *call) error {
			return c.signingKeys(http.MethodPost, "/signing_keys/rotate", url.Values{"compromised": {fmt.Sprint(c.Bool("compromised"))}})
		}),
	}
	rotate.Flags().Bool("compromised", false, "the new key takes over now and all others are dropped, which ends every access token")
	return []*cobra.Command{
		{
			Use: "signing-keys", Short: "Lists the keys that access tokens are signed with", Args: usage(cobra.NoArgs),
			RunE: operate(func(c *call) error { return c.signingKeys(http.MethodGet, "/signing_keys", nil) }),
		},
		rotate,
	}
}

// signingKeys sends a request, and prints the keys that it answers.
func (c *call) signingKeys(method, path string, query url.Values) error {
	var keys []authserver.SigningKey
	if err := c.ask(method, path, query, nil, &keys); err != nil {
		return err
	}
	return c.print(keys, func() error {
		rows := make([][]string, 0, len(keys))
		for _, k := range keys {
			state := "verifies"
			switch {
			case k.Active:
				state = "signs"
			case k.Signs.After(time.Now()):
				state = "waits"
			}
			rows = append(rows, []string{k.ID, k.Algorithm, moment(k.Signs), state})
		}
		return c.table([]string{"KEY", "ALGORITHM", "SIGNS FROM", "STATE"}, rows)
	})
}

// errProblems is what a command ends with that has found some.
var errProblems = errors.New("there are problems")
