package caddyoauthproxy

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
)

// compactCommand gives free room of the vault's file back.
func compactCommand() *cobra.Command {
	return &cobra.Command{
		Use: "compact", Short: "Gives the free room in the vault's file back to the disk", Args: usage(cobra.NoArgs),
		Long: `Has the running Caddy write the vault's file anew, without the room that nothing takes any more, and go on with that. The gateway serves meanwhile. The disk must have room for
both. Who interrupts the command ends it, and nothing is changed. It is for the vault bbolt.`,
		RunE: operate((*call).compact),
	}
}

func (c *call) compact() error {
	var done operator.Compaction
	if err := c.work(http.MethodPost, "/compact", nil, &done); err != nil {
		return err
	}
	return c.print(done, func() error {
		return c.describe([][2]string{{"before", megabytes(done.Before)}, {"after", megabytes(done.After)}})
	})
}

// megabytes is a size, for people.
func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
