package upstream

import (
	"context"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// EndMany is End for many accounts, in one commit with further writes. Their providers are told by RetryRevocations. Accounts whose tokens are in
// memory alone are ended before, one by one, whatever becomes of the rest.
func (a *Accounts) EndMany(ctx context.Context, accountIDs []string, with ...tokenstore.Write) error {
	together := make([]string, 0, len(accountIDs))
	for _, id := range accountIDs {
		acc, err := a.loadToEnd(ctx, id)
		switch {
		case err != nil:
			return err
		case acc == nil:
		case acc.Unstored:
			if err := a.commit(ctx, acc); err != nil {
				return err
			}
			a.forget(id)
		default:
			together, with = append(together, id), append(with, tokenstore.Save(acc))
		}
	}
	if err := a.vault.Commit(ctx, with...); err != nil {
		return err
	}
	for _, id := range together {
		a.forget(id)
	}
	return nil
}
