package authserver

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// ErrNotSignedIn says that nobody is signed in with the browser that a request comes from, or not any more.
var ErrNotSignedIn = errors.New("not signed in")

// SignIn is somebody who is signed in to the gateway's own pages with one browser.
type SignIn struct {
	// ID names the sign-in to operators. It is of no use as a cookie.
	ID string `json:"id"`

	// UserID is the user's id in the gateway, and User who the provider said they are when they signed in.
	UserID string          `json:"user_id"`
	User   tokenstore.User `json:"user"`

	// Admin says that the configuration of this moment names the user as an operator.
	Admin bool `json:"admin"`

	// Created is when they signed in, from Address, and Expires when they have to do so again.
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Address string    `json:"address,omitempty"`

	// CSRF is what every form of theirs carries. SignIns leaves it empty.
	CSRF string `json:"-"`
}

// SignedIn returns who is signed in with the browser that the request comes from. Everything is judged anew: that the sign-in has neither ended nor
// expired, that its provider is still the one it was made at, and whom the configuration names as an operator. Errors: ErrNotSignedIn, and those of
// the vault.
func (s *Server) SignedIn(r *http.Request) (*SignIn, error) {
	value := s.cookie(r, signInCookie)
	if len(value) != 43 || !isBase64URL(value) {
		return nil, ErrNotSignedIn
	}
	ctx, cancel := context.WithTimeout(r.Context(), judgeTime)
	defer cancel()
	record, err := s.vault.SignIn(ctx, s.vault.Hash(purposeSignIn, value))
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return nil, ErrNotSignedIn
	case err != nil:
		return nil, fmt.Errorf("sign-in: %w", err)
	}
	signIn := s.judged(record)
	provider := s.signInProvider(record.User.Provider)
	switch {
	case !s.vault.Now().Before(signIn.Expires):
		return nil, fmt.Errorf("%w: the sign-in has expired", ErrNotSignedIn)
	case provider == nil || provider.Identity() != record.Identity:
		return nil, fmt.Errorf("%w: the provider is not configured any more, or is another now", ErrNotSignedIn)
	case !s.maySignIn(record.User):
		return nil, fmt.Errorf("%w: there is nothing here for the user any more", ErrNotSignedIn)
	}
	signIn.CSRF = s.vault.Derive(purposeSignInCSRF, value)
	return signIn, nil
}

// judged is a sign-in as the present configuration sees it. A session_ttl that was made shorter holds for those who are signed in already.
func (s *Server) judged(record *tokenstore.SignIn) *SignIn {
	signIn := &SignIn{
		ID: record.ID, UserID: record.UserID, User: record.User, Admin: s.admins.permits(record.User),
		Created: record.Created, Expires: record.Expires, Address: record.Address,
	}
	if end := record.Created.Add(s.life.SignIn); end.Before(signIn.Expires) {
		signIn.Expires = end
	}
	return signIn
}

// errForeignForm refuses a form that is not from a page of this sign-in.
func errForeignForm(cause error) *Error {
	return &Error{Status: http.StatusForbidden, Code: "access_denied", Cause: cause,
		Description: "This did not come from a page of this gateway that you opened since you signed in. Open the page again, and press the button there."}
}

// ReadForm reads the form of a signed-in page. It is refused (403) unless it comes from this gateway's own page, and carries the token of this very
// sign-in.
func (s *Server) ReadForm(w http.ResponseWriter, r *http.Request, signIn *SignIn) (url.Values, error) {
	if err := s.csrf.Check(r); err != nil {
		return nil, errForeignForm(err)
	}
	form, err := readForm(w, r)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(form.Get("csrf")), []byte(signIn.CSRF)) != 1 || signIn.CSRF == "" {
		return nil, errForeignForm(errors.New("form token does not belong to this sign-in"))
	}
	return form, nil
}

// SignIns lists who is signed in, the latest first. Errors are those of the vault; a record of it that does not open hides no other.
func (s *Server) SignIns(ctx context.Context) ([]*SignIn, error) {
	records, err := s.vault.SignIns(ctx, "")
	if err != nil && !errors.Is(err, tokenstore.ErrTampered) {
		return nil, fmt.Errorf("sign-ins: %w", err)
	}
	if err != nil {
		s.log.Error("sign-ins that do not open are left out", zap.Error(err))
	}
	now, found := s.vault.Now(), make([]*SignIn, 0, len(records))
	for _, record := range records {
		if signIn := s.judged(record); now.Before(signIn.Expires) {
			found = append(found, signIn)
		}
	}
	slices.SortFunc(found, func(a, b *SignIn) int { return b.Created.Compare(a.Created) })
	return found, nil
}

// EndSignIn ends one, at once and on every node. One that is not there is an *Error with status 404.
func (s *Server) EndSignIn(ctx context.Context, id string) error {
	for {
		record, err := s.vault.SignIn(ctx, id)
		if errors.Is(err, tokenstore.ErrNotFound) {
			return &Error{Status: http.StatusNotFound, Code: "not_found", Description: "nobody is signed in under this id; they may have signed out, or the sign-in has expired"}
		}
		if err != nil {
			return fmt.Errorf("sign-in: %w", err)
		}
		err = s.vault.Commit(ctx, tokenstore.Delete(record), tokenstore.RecordEvent(s.signInEvent(ctx, tokenstore.EventSignInEnded, record)))
		if errors.Is(err, tokenstore.ErrConflict) {
			continue // gone, or about to be
		}
		if err != nil {
			return fmt.Errorf("end sign-in: %w", err)
		}
		return nil
	}
}

// EndSignIns ends all sign-ins of a user, and returns how many there were.
func (s *Server) EndSignIns(ctx context.Context, userID string) (ended int, err error) {
	if userID == "" {
		return 0, errors.New("sign-ins of which user?")
	}
	records, err := s.vault.SignIns(ctx, userID)
	if err != nil && !errors.Is(err, tokenstore.ErrTampered) {
		return 0, fmt.Errorf("sign-ins: %w", err)
	}
	for _, record := range records {
		switch err := s.EndSignIn(ctx, record.ID); {
		case err == nil:
			ended++
		case asError(err).Status != http.StatusNotFound:
			return ended, err
		}
	}
	return ended, nil
}

// signInEvent is an event about a sign-in, whose id is among its details.
func (s *Server) signInEvent(ctx context.Context, eventType string, record *tokenstore.SignIn) *tokenstore.Event {
	e := s.vault.NewEvent(ctx, eventType)
	e.UserID, e.User, e.Provider = record.UserID, record.User.Label(), record.User.Provider
	if e.Address == "" {
		e.Address = record.Address
	}
	e.Details = map[string]string{"sign_in": record.ID}
	if s.admins.permits(record.User) {
		e.Details["admin"] = "true"
	}
	return e
}
