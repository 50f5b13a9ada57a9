package caddyoauthproxy

import (
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// auditFlags are the flags that select events, by the query parameters that they become.
var auditFlags = [][3]string{
	{"type", "type", "types of events, with commas between them"},
	{"user", "user_id", "those that concern one user, by the user's id"},
	{"client", "client_id", "those that concern one client, by its id"},
	{"grant", "grant", "those of one grant, by its id"},
	{"account", "account", "those of one upstream account, by its id"},
	{"consent", "consent", "those that go back to one consent, by the id of its event"},
	{"jti", "jti", "the one that issued the token of this id"},
	{"proxy", "proxy", "those at one proxy"},
	{"provider", "provider", "those with one provider"},
	{"text", "text", "what is somewhere in the event, in whatever case"},
	{"from", "from", "from when on, such as 2026-07-28 or 2026-07-28T09:00:00Z"},
	{"until", "until", "until before when"},
}

// auditCommands are the commands for the audit trail.
func auditCommands() []*cobra.Command {
	query := &cobra.Command{
		Use: "audit", Short: "Shows the audit trail, the newest events first, or exports it", Args: usage(cobra.NoArgs),
		RunE: operate((*call).audit),
	}
	for _, f := range auditFlags {
		query.Flags().String(f[0], "", f[2])
	}
	query.Flags().String("export", "", "jsonl or csv: write everything that is selected to standard output")
	pagingFlags(query)
	verify := &cobra.Command{
		Use: "verify-audit", Short: "Reads the whole audit trail, and says whether anything in it was edited or removed", Args: usage(cobra.NoArgs),
		RunE: operate((*call).verifyAudit),
	}
	verify.Flags().String("anchor", "", "a segment that must be in it, as number:hash")
	return []*cobra.Command{query, verify}
}

func (c *call) audit() error {
	query := url.Values{}
	for _, f := range auditFlags {
		if c.Changed(f[0]) {
			query.Set(f[1], c.String(f[0]))
		}
	}
	if c.Changed("export") {
		return c.exportAudit(query)
	}
	query.Set("limit", fmt.Sprint(c.Int("limit")))
	all := operator.EventPage{Events: []*tokenstore.Event{}}
	for {
		var page operator.EventPage
		if err := c.ask(http.MethodGet, "/audit", query, nil, &page); err != nil {
			return err
		}
		all.Events, all.Next = append(all.Events, page.Events...), page.Next
		if page.Faults != "" {
			all.Faults = page.Faults
		}
		if page.Next == "" || !c.Bool("all") && len(all.Events) > 0 { // one that found nothing yet goes on
			break
		}
		query.Set("after", page.Next)
	}
	err := c.print(all, func() error {
		rows := make([][]string, 0, len(all.Events))
		for _, e := range all.Events {
			actor := e.Actor.Kind
			if e.Actor.Label != "" {
				actor += " " + e.Actor.Label
			} else if e.Actor.ID != "" {
				actor += " " + e.Actor.ID
			}
			rows = append(rows, []string{moment(e.Time), e.Type, e.Outcome, actor, e.User, e.Client, e.Proxy, e.Grant, e.Reason})
		}
		if err := c.table([]string{"TIME", "EVENT", "OUTCOME", "BY", "USER", "CLIENT", "PROXY", "GRANT", "REASON"}, rows); err != nil {
			return err
		}
		return c.more(all.Next)
	})
	if err == nil && all.Faults != "" {
		return fmt.Errorf("%s, with verify-audit", all.Faults)
	}
	return err
}

func (c *call) exportAudit(query url.Values) error {
	query.Set("format", c.String("export"))
	resp, err := c.open(http.MethodGet, "/audit/export", query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(c.out, resp.Body); err != nil {
		return fmt.Errorf("the export broke off, and is not whole: %w", err)
	}
	return nil
}

func (c *call) verifyAudit() error {
	query := url.Values{}
	if c.Changed("anchor") {
		query.Set("anchor", c.String("anchor"))
	}
	var report operator.AuditReport
	if err := c.ask(http.MethodGet, "/audit/verify", query, nil, &report); err != nil {
		return err
	}
	err := c.print(report, func() error {
		fmt.Fprintf(c.out, "%d events, from %s to %s; %d more wait to be chained.\n", report.Events, orNone(moment(report.First)), orNone(moment(report.Last)), report.Waiting)
		if report.Hash != "" {
			fmt.Fprintf(c.out, "Anchor for later: %d:%s\n", report.Number, report.Hash)
		}
		for _, f := range report.Faults {
			where := fmt.Sprintf("segment %d", f.Segment)
			if f.Segment == 0 {
				where = "event " + orNone(f.Event)
			}
			fmt.Fprintf(c.out, "%s, after %s: %s\n", where, orNone(moment(f.After)), cell(f.Problem))
		}
		if report.Whole {
			fmt.Fprintln(c.out, "The trail is whole.")
		}
		return nil
	})
	if err == nil && !report.Whole {
		return errProblems
	}
	return err
}

func orNone(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
