package caddyoauthproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
)

// revocationCommands are the commands that end many grants.
func revocationCommands() []*cobra.Command {
	revoke := &cobra.Command{
		Use: "revoke-all (--user|--client|--proxy|--provider|--everything)", Short: "Ends many grants, at once, after it has said how many", Args: usage(cobra.NoArgs),
		RunE: operate((*call).revokeAll),
	}
	selectionFlags(revoke)
	revoke.Flags().Bool("everything", false, "every grant there is")
	revoke.Flags().String("reason", "", "why, for operators")
	revoke.Flags().Bool("dry-run", false, "say how many there are, and end none")
	revoke.Flags().Bool("yes", false, "do not ask")
	list := &cobra.Command{
		Use: "revocations", Short: "Lists the orders that ended many grants, and how far they are carried out", Args: usage(cobra.NoArgs),
		RunE: operate((*call).listRevocations),
	}
	pagingFlags(list)
	remove := &cobra.Command{
		Use: "delete-client <id>", Short: "Deletes a client's registration, and ends its grants", Args: usage(cobra.ExactArgs(1)),
		RunE: operate((*call).deleteClient),
	}
	remove.Flags().String("reason", "", "why, for operators")
	return []*cobra.Command{revoke, list, remove}
}

func (c *call) revokeAll() error {
	filter := authserver.RevocationFilter{UserID: c.String("user"), ClientID: c.String("client"), Proxy: c.String("proxy"), Provider: c.String("provider"), All: c.Bool("everything")}
	for flag, value := range map[string]string{"user": filter.UserID, "client": filter.ClientID, "proxy": filter.Proxy, "provider": filter.Provider} {
		if c.Changed(flag) && value == "" { // such as that of a variable that a script forgot to set
			return badUsage("--%s is empty: give it a value, or leave it out", flag)
		}
	}
	if err := filter.Check(); err != nil {
		return badUsage("say whose grants by at least one of --user, --client, --proxy and --provider, or --everything alone: %w", err)
	}
	var dry operator.DryRun
	if err := c.ask(http.MethodPost, "/revocations", nil, operator.NewRevocation{Filter: (*operator.GivenFilter)(&filter), DryRun: true}, &dry); err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return c.print(dry, func() error {
			fmt.Fprintf(c.out, "%s would end.\n", grants(dry.Matched))
			return c.warn(dry.Warnings)
		})
	}
	if !c.Bool("yes") {
		if !term.IsTerminal(int(os.Stdin.Fd())) {
			return badUsage("%s would end: say --yes, because there is no terminal to ask at", grants(dry.Matched))
		}
		if err := c.warn(dry.Warnings); err != nil {
			return err
		}
		if err := confirm(os.Stdin, c.notes(), grants(dry.Matched)+" will end."); err != nil {
			return err
		}
	}
	var order authserver.RevocationOrder
	if err := c.ask(http.MethodPost, "/revocations", nil, operator.NewRevocation{Filter: (*operator.GivenFilter)(&filter), Reason: c.String("reason")}, &order); err != nil {
		return err
	}
	return c.printOrder(&order)
}

// confirm asks a person, who types yes.
func confirm(in io.Reader, out io.Writer, what string) error {
	fmt.Fprintf(out, "%s Type yes to go on: ", what)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return errors.New("nothing was ended")
	}
	return nil
}

func grants(n int) string {
	if n == 1 {
		return "1 grant"
	}
	return strconv.Itoa(n) + " grants"
}

func (c *call) warn(warnings []string) error {
	for _, w := range warnings {
		if _, err := fmt.Fprintln(c.notes(), "Note: "+cell(w)+"."); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) printOrder(o *authserver.RevocationOrder) error {
	return c.print(o, func() error {
		fmt.Fprintf(c.out, "%s ended, by order %s.\n", grants(o.Matched), o.ID)
		return c.warn(o.Warnings)
	})
}

func (c *call) deleteClient() error {
	query := url.Values{}
	if c.Changed("reason") {
		query.Set("reason", c.String("reason"))
	}
	var order authserver.RevocationOrder
	if err := c.ask(http.MethodDelete, "/clients/"+url.PathEscape(c.Arg(0)), query, nil, &order); err != nil {
		return err
	}
	return c.printOrder(&order)
}

func (c *call) listRevocations() error {
	query := c.page()
	all := operator.RevocationPage{Revocations: []*authserver.RevocationOrder{}}
	for {
		var page operator.RevocationPage
		if err := c.ask(http.MethodGet, "/revocations", query, nil, &page); err != nil {
			return err
		}
		all.Revocations, all.Next = append(all.Revocations, page.Revocations...), page.Next
		if page.Next == "" || !c.Bool("all") {
			break
		}
		query.Set("after", page.Next)
	}
	return c.print(all, func() error {
		rows := make([][]string, 0, len(all.Revocations))
		for _, o := range all.Revocations {
			state := "under way"
			if !o.Done.IsZero() {
				state = "done " + moment(o.Done)
			}
			rows = append(rows, []string{o.ID, moment(o.Created), o.By, meant(o.Filter), fmt.Sprintf("%d of %d", o.Ended, o.Matched), state, o.Reason})
		}
		if err := c.table([]string{"ORDER", "GIVEN", "BY", "WHOSE", "ENDED", "STATE", "REASON"}, rows); err != nil {
			return err
		}
		return c.more(all.Next)
	})
}

// meant is a filter in words.
func meant(f authserver.RevocationFilter) string {
	if f.All {
		return "everything"
	}
	var parts []string
	for _, field := range [][2]string{{"user", f.UserID}, {"client", f.ClientID}, {"proxy", f.Proxy}, {"provider", f.Provider}} {
		if field[1] != "" {
			parts = append(parts, field[0]+" "+field[1])
		}
	}
	return strings.Join(parts, ", ")
}
