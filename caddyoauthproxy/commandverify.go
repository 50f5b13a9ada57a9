package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// verifyCommand reads the whole vault.
func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify", Short: "Reads the whole vault, or a backup, and says whether anything in it is damaged", Args: usage(cobra.NoArgs),
		Long: `Has the running Caddy read its whole vault: every record opens, what stands beside it in clear is what it says, every index fits the records, and the audit trail is whole. It goes on at
what it finds, names each with what it means and what to do, and changes nothing. The gateway serves meanwhile.

Where no Caddy runs, the vault of --config is opened for reading, with the keys of that configuration.

With --from, a backup is read in place of the vault, and no Caddy is asked: whether the file is whole, and with --config, whose keys open it, whether it was signed by its vault and every
record in it opens.`,
		Example: "caddy oauth-proxy verify --config Caddyfile\ncaddy oauth-proxy verify --from vault.backup --config Caddyfile",
		RunE:    operate((*call).verify),
	}
	cmd.Flags().String("from", "", "a backup, which is verified in place of the vault")
	return cmd
}

func (c *call) verify() error {
	if c.Changed("from") {
		return c.verifyBackup(c.String("from"))
	}
	var report operator.Verification
	err := c.work(http.MethodGet, "/verify", nil, &report)
	if file := c.String("config"); file != "" && isAway(err) {
		report, err = c.verifyStored(file)
	}
	if err != nil {
		return err
	}
	if err := c.print(&report, func() error { return c.printVerification(&report, "vault") }); err != nil {
		return err
	}
	if !report.Whole {
		return errProblems
	}
	return nil
}

// isAway reports whether no Caddy has answered at all.
func isAway(err error) bool {
	_, ok := errors.AsType[*url.Error](err)
	return ok
}

// verifyStored verifies the vault of a configuration in this process.
func (c *call) verifyStored(file string) (report operator.Verification, err error) {
	v, err := openStored(c.ctx, file, c.String("adapter"))
	if err != nil {
		return report, fmt.Errorf("no Caddy answers at its admin endpoint, and the vault of %s cannot be read: %w", file, err)
	}
	defer v.release()
	fmt.Fprintf(c.notes(), "No Caddy answers at its admin endpoint: reading %s, the vault of %s.\n", v.name, file)
	if err := c.sayFrozen(v); err != nil {
		return report, err
	}
	bar := c.progressBar()
	defer bar.end()
	found, err := v.Verify(c.ctx, bar.show)
	if err != nil {
		return report, fmt.Errorf("%s: %w", v.name, err)
	}
	return operator.Verification{Whole: found.Whole(), Verification: found}, nil
}

// sayFrozen says why a vault would not be served, or only for reading.
func (c *call) sayFrozen(v *storedVault) error {
	movable, ok := v.store.(tokenstore.Movable)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, openTimeout)
	defer cancel()
	f, err := movable.Frozen(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", v.name, err)
	}
	if f.Frozen() {
		fmt.Fprintf(c.notes(), "It is read-only: %s.\n", f)
	}
	return nil
}

// printVerification prints what was found, in the vault or in what else it is of.
func (c *call) printVerification(r *operator.Verification, of string) error {
	rows := make([][]string, 0, len(r.Records))
	for _, k := range r.Records {
		rows = append(rows, []string{string(k.Kind), strconv.Itoa(k.Rows), strconv.Itoa(k.Damaged)})
	}
	if err := c.table([]string{"KIND", "ROWS", "DAMAGED"}, rows); err != nil {
		return err
	}
	if a := r.Audit; a != nil {
		fmt.Fprintf(c.out, "\n%d events in the audit trail, and %d that wait to be chained.\n", a.Events, a.Waiting)
		if a.Hash != "" {
			fmt.Fprintf(c.out, "Anchor for later: %d:%s\n", a.Number, a.Hash)
		}
	}
	c.printFaults("FAULT", r.Faults, r.MoreFaults)
	c.printFaults("REMARK", r.Remarks, r.MoreRemarks)
	if r.Whole {
		fmt.Fprintf(c.out, "\nThe %s is whole.\n", of)
	}
	return nil
}

// printFaults prints each fault; what it means once for all that mean the same.
func (c *call) printFaults(word string, faults []tokenstore.Fault, more int) {
	said := ""
	for i, f := range faults {
		if i == 0 || f.Advice != faults[i-1].Advice {
			fmt.Fprintln(c.out)
		}
		where := string(f.Class)
		if f.Kind != "" {
			where += ", " + string(f.Kind) + " " + orNone(cell(f.ID))
		}
		fmt.Fprintf(c.out, "%s (%s): %s\n", word, where, cell(f.Problem))
		if i+1 == len(faults) || f.Advice != faults[i+1].Advice {
			if said != f.Advice {
				fmt.Fprintf(c.out, "  %s\n", cell(f.Advice))
			}
			said = f.Advice
		}
	}
	if more > 0 {
		fmt.Fprintf(c.out, "%s: %d more are not listed\n", word, more)
	}
}
