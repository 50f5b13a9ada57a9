package caddyoauthproxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	ossignal "os/signal"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// rekeyCommand gives the vault new keys.
func rekeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rekey", Short: "Gives the vault new keys, and seals every record by them", Args: usage(cobra.NoArgs),
		Long: `Has the running Caddy make new keys of the vault, seal every record anew by them, open each of them, and drop the keys before. Calls, logins and refreshes go on meanwhile, on all
nodes. Whoever has a copy of the vault of before, and its encryption key, can read nothing with them that is written from then on. The encryption key is another: change that in the
configuration, before. What was cut off goes on by itself, also when Caddy was killed; the command only follows.`,
		Example: "caddy oauth-proxy rekey",
		RunE:    operate((*call).rekey),
	}
	cmd.Flags().Bool("show", false, "say how it does, and begin nothing")
	return cmd
}

func (c *call) rekey() error {
	var r tokenstore.Rekey
	if c.Bool("show") {
		if err := c.ask(http.MethodGet, "/rekey", nil, nil, &r); err != nil {
			return err
		}
		return c.printRekey(&r)
	}
	if err := c.ask(http.MethodPost, "/rekey", nil, nil, &r); err != nil {
		return err
	}
	interrupted, stop := ossignal.NotifyContext(c.ctx, os.Interrupt)
	defer stop()
	c.ctx = interrupted
	if err := c.work(http.MethodGet, "/rekey?"+url.Values{"follow": {"true"}}.Encode(), nil, &r); err != nil {
		if interrupted.Err() != nil {
			return errors.New("the rekey goes on without this command: run it again to follow it, or with --show to see how it does")
		}
		return err
	}
	if err := c.printRekey(&r); err != nil {
		return err
	}
	switch r.State {
	case tokenstore.RekeyDone:
		return nil
	case tokenstore.RekeyWaiting:
		fmt.Fprintln(c.notes(), "Every record is sealed anew. The old key of open consent pages goes by itself, when the last of them has expired.")
		return nil
	default:
		return errors.New(r.Error)
	}
}

func (c *call) printRekey(r *tokenstore.Rekey) error {
	return c.print(r, func() error {
		resealed, damaged, step := "", "", ""
		if r.Resealed > 0 {
			resealed = strconv.Itoa(r.Resealed)
		}
		if r.DamagedRows > 0 {
			damaged = strconv.Itoa(r.DamagedRows)
		}
		if p := r.Progress; p != nil {
			step = progressOf(p)
		}
		if err := c.describe([][2]string{
			{"rekey", string(r.State)}, {"began", moment(r.Began)}, {"step", step}, {"sealed anew", resealed}, {"do not open", damaged}, {"goes on", moment(r.Next)},
			{"last one ended", moment(r.Ended)}, {"error", r.Error},
		}); err != nil || len(r.Damaged) == 0 {
			return err
		}
		fmt.Fprintln(c.out)
		rows := make([][]string, 0, len(r.Damaged))
		for _, row := range r.Damaged {
			rows = append(rows, []string{string(row.Kind), row.ID})
		}
		return c.table([]string{"KIND", "ID"}, rows)
	})
}
