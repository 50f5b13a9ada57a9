package tokenstore

import (
	"context"
	"errors"
)

// Clients lists the clients that registered themselves, ordered by id: at most limit, behind the id after. One that does not open does not hide
// the others: they are returned together with an ErrTampered that names it. Any other error comes with no clients. next is where to go on, empty at the end.
func (v *Vault) Clients(ctx context.Context, after string, limit int) (clients []*Client, next string, err error) {
	rows, err := v.store.List(ctx, KindClient, Query{After: after, Limit: limit})
	if err != nil {
		return nil, "", err
	}
	var faults error
	for _, row := range rows {
		c := new(Client)
		row.Kind = KindClient
		if err := v.openRecord(row, c); err != nil {
			faults = errors.Join(faults, err)
			continue
		}
		clients = append(clients, c)
	}
	if len(rows) == limit {
		next = rows[limit-1].ID
	}
	return clients, next, faults
}
