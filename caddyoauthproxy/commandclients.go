package caddyoauthproxy

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// clientCommands are the commands for clients.
func clientCommands() []*cobra.Command {
	list := &cobra.Command{
		Use: "clients", Short: "Lists the clients: registered, configured, and with metadata documents", Args: usage(cobra.NoArgs),
		RunE: operate((*call).listClients),
	}
	list.Flags().String("kind", "", "registered, configured or metadata_document alone")
	pagingFlags(list)
	return []*cobra.Command{
		list,
		{
			Use: "client <id>", Short: "Shows a client", Args: usage(cobra.ExactArgs(1)),
			RunE: operate(func(c *call) error { return c.showClient(http.MethodGet) }),
		},
	}
}

// pagingFlags are those of lists.
func pagingFlags(cmd *cobra.Command) {
	cmd.Flags().Int("limit", 100, "how many to ask for at a time, 1 to 1000")
	cmd.Flags().Bool("all", false, "all of them, not the first page alone")
}

// page adds what a list is asked for to a query: what flags of the same names say.
func (c *call) page(names ...string) url.Values {
	query := url.Values{"limit": {strconv.Itoa(c.Int("limit"))}}
	for _, name := range names {
		if c.Changed(name) {
			query.Set(strings.ReplaceAll(name, "-", "_"), c.String(name))
		}
	}
	return query
}

func (c *call) listClients() error {
	query := c.page("kind")
	all := authserver.ClientPage{Clients: []*authserver.ClientInfo{}}
	for {
		var page authserver.ClientPage
		if err := c.ask(http.MethodGet, "/clients", query, nil, &page); err != nil {
			return err
		}
		all.Clients, all.Next = append(all.Clients, page.Clients...), page.Next
		if page.Next == "" || !c.Bool("all") {
			break
		}
		query.Set("after", page.Next)
	}
	return c.print(all, func() error {
		rows := make([][]string, 0, len(all.Clients))
		for _, k := range all.Clients {
			rows = append(rows, []string{k.ID, k.Name, k.Kind, strings.Join(k.RedirectURIs, " "), moment(k.Created), moment(k.Used)})
		}
		if err := c.table([]string{"CLIENT", "NAME", "KIND", "REDIRECT URIS", "CREATED", "LAST USED"}, rows); err != nil {
			return err
		}
		return c.more(all.Next)
	})
}

func (c *call) showClient(method string) error {
	var k authserver.ClientInfo
	if err := c.ask(method, "/clients/"+url.PathEscape(c.Arg(0)), nil, nil, &k); err != nil {
		return err
	}
	return c.print(k, func() error {
		return c.describe([][2]string{
			{"client", k.ID}, {"name", k.Name}, {"kind", k.Kind}, {"page", k.URI}, {"redirect URIs", strings.Join(k.RedirectURIs, " ")},
			{"grant types", strings.Join(k.GrantTypes, " ")}, {"authentication", k.AuthMethod}, {"keys at", k.JWKSURI}, {"proxies", strings.Join(k.Proxies, " ")},
			{"created", moment(k.Created)}, {"last used", moment(k.Used)}, {"expires", moment(k.Expires)},
		})
	})
}
