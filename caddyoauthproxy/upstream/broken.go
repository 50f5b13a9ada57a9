package upstream

import (
	"context"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// breakGrants makes the writes by which an account that must be connected again takes its grants with it: whoever looks at them sees why they are of no use. It is
// none for any other account. A grant that does not open is of no use anyway.
func (a *Accounts) breakGrants(ctx context.Context, acc *tokenstore.Account) ([]tokenstore.Write, error) {
	if acc.State != tokenstore.StateNeedsReauth {
		return nil, nil
	}
	const page = 1000
	var writes []tokenstore.Write
	for q := (tokenstore.GrantQuery{AccountID: acc.ID, Limit: page}); ; {
		found, more, err := a.vault.FindGrants(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, g := range found {
			q.After = g.ID
			if g.Err != nil || g.Grant.State != tokenstore.StateActive || g.Grant.Broken != "" {
				continue
			}
			g.Grant.Broken = acc.Reason
			writes = append(writes, tokenstore.Save(g.Grant))
		}
		if !more {
			return writes, nil
		}
	}
}
