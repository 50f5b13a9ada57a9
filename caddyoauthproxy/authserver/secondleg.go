package authserver

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Where users log in at one provider and connect their account at another, a login has two legs. The first says who the user is and whether they
// may come in; nothing else is kept of it. The second, in the same browser and with a state, a nonce and a verifier of its own, brings the
// tokens that go upstream. Only then there is a grant.

// secondLeg tells the states of the two legs of a request apart.
const secondLeg = "account"

// openNextLeg makes the end of the first leg and the begin of the second durable together.
func (s *Server) openNextLeg(ctx context.Context, f *flight, login *tokenstore.Login, p *Proxy, u tokenstore.User) error {
	next, _ := s.newLogin(&login.Request, p.Provider, secondLeg)
	next.User, next.Browser, next.Remember, next.UserID, next.Agreed = &u, login.Browser, login.Remember, login.UserID, login.Agreed
	err := f.insistOn(ctx, func(ctx context.Context) error {
		_, err := s.beginLogin(ctx, p.Provider, next, s.loginState(&login.Request, secondLeg), false)
		return err
	})
	if err != nil {
		login.Error = "temporarily_unavailable"
		failed := s.loginFailed(ctx, next, login.Error, err)
		err := s.settle(ctx, f, login, func(context.Context) ([]tokenstore.Write, error) {
			return []tokenstore.Write{tokenstore.Save(login), tokenstore.RecordEvent(failed)}, nil
		})
		if err != nil {
			return fmt.Errorf("finish login: %w", err)
		}
		return nil
	}
	next.LoginIdentity, login.Next = login.Identity, next.ID
	err = s.settle(ctx, f, login, func(context.Context) ([]tokenstore.Write, error) {
		return []tokenstore.Write{tokenstore.Save(login), tokenstore.Save(next)}, nil
	})
	if err != nil {
		return fmt.Errorf("open second login: %w", err)
	}
	s.log.Info("user known, on to the account", zap.String("client_id", login.Request.ClientID), zap.String("proxy", login.Request.Proxy),
		zap.String("provider", login.Provider), zap.String("account_provider", next.Provider), zap.String("user", u.Label()))
	return nil
}

// nextLeg sends the browser from the first leg to the second, as often as the first is repeated.
func (s *Server) nextLeg(w http.ResponseWriter, r *http.Request, done *tokenstore.Login) {
	next, err := s.vault.Login(r.Context(), done.Next)
	if err != nil {
		s.callbackProblem(w, r, fmt.Errorf("login: %w", err))
		return
	}
	state := s.loginState(&done.Request, secondLeg)
	p := s.proxies[next.Request.Proxy]
	if !next.Claimed.IsZero() || p == nil || p.Provider.Identity() != next.Identity || subtle.ConstantTimeCompare([]byte(s.vault.Hash(purposeState, state)), []byte(next.ID)) != 1 {
		s.callbackProblem(w, r, refuse("invalid_request", "This sign-in is not known here, was finished before, or took too long."))
		return
	}
	target, err := s.beginLogin(r.Context(), p.Provider, next, state, false)
	if err != nil {
		if next.Request.Flow != "" {
			s.notConnected(w, r, err)
			return
		}
		s.redirectError(w, r, next.Request.RedirectURI, next.Request.State, err)
		return
	}
	s.setLoginCookie(w, r, next.ID, s.loginCookie(r, done.ID))
	w.Header().Set("Location", target)
	w.WriteHeader(http.StatusSeeOther)
}
