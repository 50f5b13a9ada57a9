package tokenstore

import (
	"context"
	"errors"
	"slices"
	"time"
)

// SignIn is a user, or an operator, who is signed in to the gateway's own pages with one browser. Its ID is the keyed hash of the cookie that only
// that browser holds.
type SignIn struct {
	Meta

	// UserID is the user's id in the gateway, and User who the provider said they are when they signed in.
	UserID string `json:"user_id"`
	User   User   `json:"user"`

	// Identity tells the provider from another one that is given its name later.
	Identity string `json:"identity"`

	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`

	// Address is the network address that the sign-in began from, for people to recognise it by.
	Address string `json:"address,omitempty"`
}

func (s *SignIn) layout() layout {
	return layout{kind: KindSignIn, use: useTxn, refs: []string{"user:" + s.UserID}}
}

// SignIn returns the sign-in of this id. Errors: ErrNotFound, ErrTampered, and those of the store.
func (v *Vault) SignIn(ctx context.Context, id string) (*SignIn, error) {
	return load(ctx, v, new(SignIn), id)
}

// SignIns lists the sign-ins of a user, or of all when userID is empty, ordered by id; those that have expired are among them until they are swept. One
// that does not open does not hide the others: they are returned together with an ErrTampered that names it. Any other error comes with none.
func (v *Vault) SignIns(ctx context.Context, userID string) ([]*SignIn, error) {
	const page = 1000
	q := Query{Limit: page}
	if userID != "" {
		q.Refs = []string{"user:" + userID}
	}
	var found []*SignIn
	var faults error
	for {
		rows, err := v.store.List(ctx, KindSignIn, q)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			q.After = row.ID
			s := new(SignIn)
			row.Kind = KindSignIn
			if err := v.openRecord(row, s); err != nil {
				faults = errors.Join(faults, err)
				continue
			}
			if userID == "" || s.UserID == userID && slices.Contains(row.Refs, "user:"+userID) {
				found = append(found, s)
			}
		}
		if len(rows) < page {
			return found, faults
		}
	}
}
