package caddyoauthproxy

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
)

// sessionCommands are the commands for who is signed in to the gateway's own pages.
func sessionCommands() []*cobra.Command {
	list := &cobra.Command{
		Use: "sessions", Short: "Lists who is signed in to the gateway's own pages", Args: usage(cobra.NoArgs),
		RunE: operate((*call).listSessions),
	}
	pagingFlags(list)
	return []*cobra.Command{
		list,
		{
			Use: "end-session <id>", Short: "Signs somebody out", Args: usage(cobra.ExactArgs(1)),
			RunE: operate((*call).endSession),
		},
	}
}

func (c *call) listSessions() error {
	query := c.page()
	all := operator.SessionPage{Sessions: []*authserver.SignIn{}}
	for {
		var page operator.SessionPage
		if err := c.ask(http.MethodGet, "/sessions", query, nil, &page); err != nil {
			return err
		}
		all.Sessions, all.Next = append(all.Sessions, page.Sessions...), page.Next
		if page.Next == "" || !c.Bool("all") {
			break
		}
		query.Set("after", page.Next)
	}
	return c.print(all, func() error {
		rows := make([][]string, 0, len(all.Sessions))
		for _, s := range all.Sessions {
			role := "user"
			if s.Admin {
				role = "admin"
			}
			rows = append(rows, []string{s.ID, s.User.Label(), s.User.Provider, role, moment(s.Created), moment(s.Expires), s.Address})
		}
		if err := c.table([]string{"SESSION", "USER", "PROVIDER", "ROLE", "SIGNED IN", "EXPIRES", "FROM"}, rows); err != nil {
			return err
		}
		return c.more(all.Next)
	})
}

func (c *call) endSession() error {
	if err := c.ask(http.MethodDelete, "/sessions/"+url.PathEscape(c.Arg(0)), nil, nil, nil); err != nil {
		return err
	}
	return c.print(map[string]string{"id": c.Arg(0), "state": "ended"}, func() error {
		_, err := fmt.Fprintln(c.out, "Signed out.")
		return err
	})
}
