package caddyoauthproxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// grantCommands are the commands for grants.
func grantCommands() []*cobra.Command {
	list := &cobra.Command{
		Use: "grants", Short: "Lists the grants: who can act as whom, where, since when, and how they fare", Args: usage(cobra.NoArgs),
		RunE: operate((*call).listGrants),
	}
	selectionFlags(list)
	list.Flags().String("account", "", "those with one upstream account, by its id")
	list.Flags().String("health", "", "valid, expiring, expired, broken or revoked")
	list.Flags().String("text", "", "words of the user's name, e-mail address and login name, and of the client's name")
	list.Flags().String("sort", "", "user, client, proxy, provider, used, expires or health, with - in front the other way round")
	pagingFlags(list)
	revoke := &cobra.Command{
		Use: "revoke <id>…", Short: "Ends grants, at once", Args: usage(cobra.MinimumNArgs(1)),
		RunE: operate((*call).endGrants),
	}
	revoke.Flags().String("reason", "", "why, for people")
	return []*cobra.Command{
		list,
		{
			Use: "grant <id>", Short: "Shows a grant, with its account", Args: usage(cobra.ExactArgs(1)),
			RunE: operate((*call).showGrant),
		},
		revoke,
	}
}

// selectionFlags say whose grants.
func selectionFlags(cmd *cobra.Command) {
	cmd.Flags().String("user", "", "those of one user, by the user's id")
	cmd.Flags().String("client", "", "those of one client, by its id; (session) for session tokens")
	cmd.Flags().String("proxy", "", "those for one proxy")
	cmd.Flags().String("provider", "", "those with one provider")
}

func (c *call) listGrants() error {
	query := c.page("proxy", "provider", "health", "text", "sort")
	for flag, name := range map[string]string{"user": "user_id", "client": "client_id", "account": "account_id"} {
		if c.Changed(flag) {
			query.Set(name, c.String(flag))
		}
	}
	all := authserver.GrantPage{Grants: []*authserver.GrantInfo{}}
	for {
		var page authserver.GrantPage
		if err := c.ask(http.MethodGet, "/tokens", query, nil, &page); err != nil {
			return err
		}
		all.Grants, all.Next = append(all.Grants, page.Grants...), page.Next
		if page.Next == "" || !c.Bool("all") {
			break
		}
		query.Set("after", page.Next)
	}
	return c.print(all, func() error {
		rows := make([][]string, 0, len(all.Grants))
		for _, g := range all.Grants {
			rows = append(rows, []string{g.ID, g.User.Label, g.Client, g.Proxy, g.Provider, string(g.Health), moment(g.Created), never(moment(g.Used)), moment(g.Expires)})
		}
		if err := c.table([]string{"GRANT", "USER", "CLIENT", "PROXY", "PROVIDER", "HEALTH", "CREATED", "LAST USED", "EXPIRES"}, rows); err != nil {
			return err
		}
		return c.more(all.Next)
	})
}

// never is a time that has not come, where a table would be read as if it were not known.
func never(moment string) string {
	if moment == "" {
		return "never"
	}
	return moment
}

func (c *call) showGrant() error {
	var g authserver.GrantInfo
	if err := c.ask(http.MethodGet, "/tokens/"+url.PathEscape(c.Arg(0)), nil, nil, &g); err != nil {
		return err
	}
	return c.print(g, func() error { return c.describe(grantFields(&g)) })
}

func grantFields(g *authserver.GrantInfo) [][2]string {
	fields := [][2]string{
		{"grant", g.ID}, {"health", string(g.Health)}, {"reason", g.Reason},
		{"user", g.User.Label}, {"user id", g.User.ID}, {"name", g.User.Name}, {"login", g.User.Login}, {"logs in at", g.User.Provider},
		{"client", g.Client}, {"client id", g.ClientID}, {"proxy", g.Proxy}, {"resource", g.Resource}, {"scopes", strings.Join(g.Scopes, " ")},
		{"created", moment(g.Created)}, {"last used", never(moment(g.Used))}, {"expires", moment(g.Expires)}, {"ends", moment(g.Ends)},
		{"upstream ends", moment(g.UpstreamEnds)}, {"provider", g.Provider},
	}
	if a := g.Account; a != nil {
		fields = append(fields, [][2]string{
			{"account", a.ID}, {"state", string(a.State)}, {"why", a.Reason}, {"owner", a.Owner}, {"upstream scopes", strings.Join(a.Scopes, " ")},
			{"upstream token of", moment(a.Obtained)}, {"until", moment(a.Expires)},
		}...)
	}
	return fields
}

// endGrants ends one grant after the other. One that cannot be ended keeps no other from it.
func (c *call) endGrants() error {
	query := url.Values{}
	if c.Changed("reason") {
		query.Set("reason", c.String("reason"))
	}
	ended := []*authserver.GrantInfo{}
	var failed error
	for _, id := range c.Args() {
		var g authserver.GrantInfo
		if err := c.ask(http.MethodDelete, "/tokens/"+url.PathEscape(id), query, nil, &g); err != nil {
			failed = worse(failed, fmt.Errorf("%s: %w", id, err))
			continue
		}
		ended = append(ended, &g)
	}
	return worse(c.print(ended, func() error {
		for _, g := range ended {
			if _, err := fmt.Fprintf(c.out, "Ended %s: %s, by %s.\n", g.ID, cell(g.User.Label), cell(g.Client)); err != nil {
				return err
			}
		}
		return nil
	}), failed)
}

// worse joins errors. The exit code is that of the first, unless the other one says that something has failed.
func worse(a, b error) error {
	if a == nil || b == nil {
		return errors.Join(a, b)
	}
	joined := errors.Join(a, b)
	if first, _ := exitCode(a); first == exitNotFound {
		code, _ := exitCode(b)
		return &commandError{code, joined}
	}
	return joined
}
