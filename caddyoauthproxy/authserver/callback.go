package authserver

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// callbackRepeat is how long the same browser may repeat a finished callback and get the same answer.
	callbackRepeat = time.Minute

	// callbackTimeout bounds the exchange with the provider; it goes on when the browser leaves.
	callbackTimeout = 90 * time.Second

	// tidyAfter is how long expired logins, codes and unused grants stay before the clean-up may take
	// them: clocks differ, and a replay should still be recognised.
	tidyAfter = time.Hour
)

// serveCallback is GET callback: the provider sends the user back with code and state, or with an error.
// The browser must be the one that pressed Allow. The provider's code is redeemed, the
// user is asked for at the door, account and grant are stored, and the browser goes on to
// the client with the gateway's own code, state and iss.
func (s *Server) serveCallback(w http.ResponseWriter, r *http.Request) {
	if isPrefetch(w, r) {
		return
	}
	q := r.URL.Query()
	q.Del("format") // scripts add it
	login, err := s.findLogin(r, q)
	progressOf(r.Context()).isFor(login)
	if err != nil {
		if limited := s.charge(s.limits.login, r); limited != nil && !VaultFault(err) {
			err = limited
		}
		s.callbackProblem(w, r, err)
		return
	}
	// Two deliveries of one callback share one exchange, which outlives both connections. One callback is one state and one
	// code: whoever knows the state alone, because it began the login, has no part in its outcome.
	done, err := s.takeCallback(r.Context(), login.ID, s.vault.Hash(purposeAnswer, q.Get("code")), r.PathValue("provider"), q)
	if err != nil {
		s.callbackProblem(w, r, err)
		return
	}
	progressOf(r.Context()).loginDone(done)
	if done.Next != "" {
		s.nextLeg(w, r, done)
		return
	}
	if done.Request.Flow == tokenstore.FlowSignIn {
		s.answerSignIn(w, r, done, q.Get("state"))
		return
	}
	if done.Request.Flow != "" {
		s.answerSession(w, r, done)
		return
	}
	switch {
	case done.Remember && done.Error == "":
		if err := s.setSession(w, r, done.GrantID); err != nil {
			s.problem(w, r, err)
			return
		}
	case done.UserID != "" && done.Error != "":
		s.dropCookie(w, sessionCookie) // so that the next attempt asks
	}
	params := url.Values{"code": {s.vault.Derive(purposeCode, q.Get("state"))}}
	if done.Error != "" {
		code, text := loginError(done)
		params = url.Values{"error": {code}, "error_description": {text}}
	}
	s.redirectClient(w, r, done.Request.RedirectURI, done.Request.State, params)
}

// callbackProblem tells a person, or a script, why a callback leads nowhere.
func (s *Server) callbackProblem(w http.ResponseWriter, r *http.Request, err error) {
	if wantsJSON(r) {
		s.writeSessionError(w, r, err)
		return
	}
	s.problem(w, r, err)
}

// errFull is how a login ends for which there is no place.
const errFull = "access_denied full"

// loginError is the error code with which a login ended, and what the client is told.
func loginError(login *tokenstore.Login) (code, text string) {
	code, _, _ = strings.Cut(login.Error, " ")
	return code, loginErrors[login.Error]
}

// loginErrors are the error codes with which a login can end, some with a word more, and what the client is told.
var loginErrors = map[string]string{
	errFull:                   "this MCP server has as many connections as its operator allows; ask them to end some, or to allow more",
	"access_denied":           "the user, the login service or this gateway's policy refused the login",
	"temporarily_unavailable": "the login service cannot be reached at the moment; try again",
	"server_error":            "the login service gave an answer that this gateway does not accept",
}

// findLogin finds the login of the callback and insists on its browser.
func (s *Server) findLogin(r *http.Request, q url.Values) (*tokenstore.Login, error) {
	unknown := func(cause error) error {
		return refuse("invalid_request", "This sign-in is not known here, was finished before, or took too long.").because(cause)
	}
	if err := noRepeats(q); err != nil {
		return nil, err
	}
	state := q.Get("state")
	if len(state) != 43 || !isBase64URL(state) {
		return nil, unknown(errors.New("malformed state"))
	}
	login, err := s.vault.Login(r.Context(), s.vault.Hash(purposeState, state))
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return nil, unknown(err)
	case err != nil:
		return nil, fmt.Errorf("login: %w", err)
	}
	// A script that asked for a session token may fetch its callback itself, and has no cookie.
	cookie := s.loginCookie(r, login.ID)
	if login.Request.Flow != tokenstore.FlowSession && subtle.ConstantTimeCompare([]byte(s.vault.Hash(purposeBrowser, cookie)), []byte(login.Browser)) != 1 {
		return nil, s.burnLogin(r.Context(), login)
	}
	now := s.vault.Now()
	if login.Finished.IsZero() && now.After(login.Expires) || !login.Finished.IsZero() && now.After(login.Finished.Add(callbackRepeat)) {
		return nil, unknown(errors.New("expired"))
	}
	return login, nil
}

// burnLogin ends a login that turned up in another browser: somebody may be trying to
// have the victim finish the attacker's login, or the other way round.
func (s *Server) burnLogin(ctx context.Context, login *tokenstore.Login) error {
	event := s.loginFailed(ctx, login, "access_denied", errors.New("callback in another browser: login ended"))
	if !login.Finished.IsZero() {
		s.vault.Note(event)
	} else if err := s.vault.Commit(ctx, tokenstore.Delete(login), tokenstore.RecordEvent(event)); err != nil && !errors.Is(err, tokenstore.ErrConflict) {
		return fmt.Errorf("end login: %w", err)
	}
	return &Error{Status: http.StatusForbidden, Code: "access_denied",
		Description: "This sign-in was started in another browser, or your browser is blocking cookies for this site."}
}

// finishLogin takes the login to its end, once, and returns it finished.
func (s *Server) finishLogin(ctx context.Context, f *flight, loginID, answer, callback string, q url.Values) (*tokenstore.Login, error) {
	for {
		login, provider, err := s.claimLogin(ctx, f, loginID, answer, callback)
		if err != nil || !login.Finished.IsZero() {
			return login, err
		}
		err = s.finishClaimed(ctx, f, login, provider, q)
		if errors.Is(err, errTakenOver) {
			continue
		}
		return login, err
	}
}

// claimLogin makes the callback this process's, before the provider's code is used, so that no other node uses it too. It returns the login claimed, or finished
// where somebody else has brought it to its end.
func (s *Server) claimLogin(ctx context.Context, f *flight, loginID, answer, callback string) (*tokenstore.Login, *upstream.Provider, error) {
	claim := rand.Text()
	for {
		login, err := s.loginOf(ctx, f, loginID)
		if err != nil {
			return nil, nil, err
		}
		now := s.vault.Now()
		switch {
		case !login.Claimed.IsZero() && subtle.ConstantTimeCompare([]byte(login.Answer), []byte(answer)) != 1:
			return nil, nil, refuse("invalid_request", "This sign-in is not known here, was finished before, or took too long.").because(errors.New("another code than the login was finished with"))
		case !login.Finished.IsZero():
			return login, nil, nil
		}
		provider, err := s.providerOf(login, callback)
		if err != nil {
			return nil, nil, err
		}
		if login.Claim == claim { // by an attempt whose answer was lost
			return login, provider, nil
		}
		if !login.Claimed.IsZero() && now.Before(login.Claimed.Add(claimLapse)) {
			if !pause(ctx, claimLook) {
				return nil, nil, fmt.Errorf("login: claimed by another node: %w", ctx.Err())
			}
			continue
		}
		login.Claim, login.Claimed, login.Answer = claim, now, answer
		login.DeleteAfter = s.loginTidied(login.Claimed)
		err = f.insist(ctx, func(ctx context.Context) error { return s.vault.Commit(ctx, tokenstore.Save(login)) })
		switch {
		case err == nil:
			return login, provider, nil
		case !errors.Is(err, tokenstore.ErrConflict):
			return nil, nil, fmt.Errorf("claim login: %w", err)
		}
	}
}

// providerOf is the provider that a login is at, as the gateway is configured now. callback is what the path of its answer says.
func (s *Server) providerOf(login *tokenstore.Login, callback string) (*upstream.Provider, error) {
	p := s.proxies[login.Request.Proxy]
	var provider *upstream.Provider
	switch {
	case login.Request.Flow == tokenstore.FlowSession:
		provider = s.sessionProvider(login.Provider)
	case login.Request.Flow == tokenstore.FlowSignIn:
		provider = s.signInProvider(login.Provider)
	case p != nil:
		provider = p.legProvider(login)
	}
	needsSessions := login.Request.Flow == tokenstore.FlowSession || login.Request.Flow == tokenstore.FlowConnect
	if provider == nil || provider.Name() != login.Provider || provider.Identity() != login.Identity || login.User != nil && !p.loggedIn(login) || needsSessions && !s.sessions {
		return nil, refuse("invalid_request", "This gateway's configuration has changed meanwhile.")
	}
	if callback != callbackOf(provider) {
		return nil, refuse("invalid_request", "This answer came from another login service than the one that was asked.")
	}
	return provider, nil
}

// finishClaimed does what is to be done with the provider's answer.
func (s *Server) finishClaimed(ctx context.Context, f *flight, login *tokenstore.Login, provider *upstream.Provider, q url.Values) error {
	p := s.proxies[login.Request.Proxy]
	tokens, user, failed, err := s.redeem(ctx, f, provider, login, q)
	if err != nil {
		return err
	}
	login.Finished = s.vault.Now()
	login.DeleteAfter = s.loginTidied(login.Finished)
	login.Nonce, login.Verifier = "", ""
	switch {
	case failed != nil:
		login.Error = failed.Details["error"]
		err = s.settle(ctx, f, login, func(context.Context) ([]tokenstore.Write, error) {
			return []tokenstore.Write{tokenstore.Save(login), tokenstore.RecordEvent(failed)}, nil
		})
		if err != nil {
			return fmt.Errorf("finish login: %w", err)
		}
		return nil
	case login.Request.Flow == tokenstore.FlowSignIn:
		return s.storeSignIn(ctx, f, login, provider, tokens, user, q.Get("state"))
	case p != nil && p.Login != nil && login.User == nil:
		s.dropTokens(ctx, provider, tokens) // they have said who the user is
		return s.openNextLeg(ctx, f, login, p, user)
	default:
		err := s.storeGrant(ctx, f, login, provider, tokens, user, q.Get("state"))
		if errors.Is(err, errTakenOver) {
			s.dropTokens(ctx, provider, tokens)
		}
		return err
	}
}

// redeem turns the provider's answer into tokens and a user who may come in, or into the event of a login that failed, which says with which of loginErrors. An
// error says that the vault did not answer before the provider was asked.
func (s *Server) redeem(ctx context.Context, f *flight, provider *upstream.Provider, login *tokenstore.Login, q url.Values) (tokens upstream.Tokens, user tokenstore.User, failed *tokenstore.Event, err error) {
	fail := func(code string, err error) *tokenstore.Event { return s.loginFailed(ctx, login, code, err) }
	userID := login.UserID
	if login.User != nil {
		userID = s.userID(*login.User)
	}
	if s.orderedAgainst(login, userID) {
		return tokens, user, fail("access_denied", errLoginRevoked), nil
	}
	p := s.proxies[login.Request.Proxy]
	if login.Request.Flow == "" {
		client, err := s.clientOf(ctx, f, login)
		switch {
		case VaultFault(err):
			return tokens, user, nil, fmt.Errorf("client: %w", err)
		case err != nil:
			return tokens, user, fail("access_denied", fmt.Errorf("client: %w", err)), nil
		case !registeredRedirect(client.RedirectURIs, p, login.Request.RedirectURI):
			return tokens, user, fail("access_denied", errors.New("redirect URI no longer registered")), nil
		}
	}
	if q.Get("code") == "" {
		// RFC 9207 §2.4: an error of another issuer is not acted on either; what the provider
		// says about it is its own text and goes nowhere.
		failed := fail("access_denied", errors.New("no code from the provider"))
		failed.Details["provider_error"] = errorCode(q.Get("error"))
		return tokens, user, failed, nil
	}
	identify := login.Request.Flow == tokenstore.FlowSignIn || p != nil && p.Login != nil && login.User == nil
	err = f.insistOn(ctx, func(ctx context.Context) (err error) { // the gateway's registration at the provider may be in the vault
		tokens, user, err = provider.Exchange(ctx, upstream.CodeResponse{
			Code: q.Get("code"), Issuer: q.Get("iss"), Nonce: login.Nonce, Verifier: login.Verifier, RedirectURI: s.redirectURI(provider),
			Binding: login.Binding, Scopes: scopesToAsk(&login.Request, identify),
		})
		return err
	})
	if err != nil {
		var ue *upstream.Error
		if errors.As(err, &ue) && (ue.Class == upstream.Unreachable || ue.Class == upstream.Throttled) {
			return tokens, user, fail("temporarily_unavailable", err), nil
		}
		return tokens, user, fail("server_error", err), nil
	}
	known := func(failed *tokenstore.Event) *tokenstore.Event {
		failed.UserID, failed.User = s.userID(user), user.Label()
		failed.Actor = userActor(failed.UserID, failed.User)
		return failed
	}
	if login.Request.Flow == tokenstore.FlowSignIn {
		if s.maySignIn(user) {
			return tokens, user, nil, nil
		}
		s.forgetTokens(ctx, provider, tokens, user)
		return tokens, user, known(fail("access_denied", errors.New("the admin list does not name the user, and users have no page of their own"))), nil
	}
	drop := func(code string, err error) *tokenstore.Event {
		s.dropTokens(ctx, provider, tokens)
		return known(fail(code, err))
	}
	deciding := login.User == nil // else who may come in was decided before
	switch {
	case deciding && (p != nil && !p.Allow.Permits(user) || p == nil && !s.permitsSession(provider.Name(), user)):
		return tokens, user, drop("access_denied", errors.New("the proxy's allow list does not name the user")), nil
	case deciding && login.UserID != "" && login.UserID != s.userID(user):
		return tokens, user, drop("access_denied", errors.New("the remembered consent was another user's")), nil
	case deciding && s.orderedAgainst(login, s.userID(user)):
		return tokens, user, drop("access_denied", errLoginRevoked), nil
	}
	if p != nil && p.MaxGrants > 0 { // strangers are not told
		var full bool
		err := f.insist(ctx, func(ctx context.Context) (err error) {
			full, err = s.vault.LivingGrants(ctx, p.ID, p.MaxGrants, s.over)
			return err
		})
		if err != nil {
			return tokens, user, drop("server_error", fmt.Errorf("count grants: %w", err)), nil
		}
		if full {
			return tokens, user, drop(errFull, fmt.Errorf("the proxy has its %d grants (max_grants)", p.MaxGrants)), nil
		}
	}
	return tokens, user, nil, nil
}

// clientOf finds the client of a login.
func (s *Server) clientOf(ctx context.Context, f *flight, login *tokenstore.Login) (client *tokenstore.Client, err error) {
	err = f.insist(ctx, func(ctx context.Context) (err error) {
		client, err = s.findClient(ctx, login.Request.ClientID, staleForToken)
		return err
	})
	return client, err
}

// dropTokens ends tokens at the provider that nobody will use.
func (s *Server) dropTokens(ctx context.Context, provider *upstream.Provider, t upstream.Tokens) {
	s.background(ctx, func(ctx context.Context) {
		if err := provider.Revoke(ctx, t); err != nil {
			s.log.Warn("tokens of a refused login cannot be revoked", zap.String("provider", provider.Name()), zap.NamedError("cause", withoutURL(err)))
		}
	})
}

// errorCode keeps a provider's error code for the log, and nothing that is not one.
func errorCode(v string) string {
	if len(v) > 64 || !isBase64URL(v) {
		return "unreadable"
	}
	return v
}

// userID is the user's id in the gateway: the same for ever, and made of nothing that may change.
func (s *Server) userID(u tokenstore.User) string {
	return s.vault.Derive(purposeUser, u.Provider, u.Issuer, u.Subject)
}

// storeGrant makes everything that a login leads to durable together with its end.
func (s *Server) storeGrant(ctx context.Context, f *flight, login *tokenstore.Login, provider *upstream.Provider, t upstream.Tokens, u tokenstore.User, state string) error {
	now, owner := s.vault.Now(), ""
	ownerID := s.vault.Derive(purposeOwner, provider.ClientID(), u.Issuer, u.Subject)
	if login.User != nil {
		u, owner = *login.User, u.Label()
	}
	userID := s.userID(u)
	account := &tokenstore.Account{
		Meta:  tokenstore.Meta{ID: tokenstore.NewID(now)},
		State: tokenstore.StateActive, Provider: login.Provider, UserID: userID, Owner: owner, OwnerID: ownerID, Identity: login.Identity, Binding: t.Binding,
		AccessToken: t.AccessToken, RefreshToken: t.RefreshToken, IDToken: t.IDToken, TokenType: t.TokenType,
		Scopes: t.Scopes, Obtained: now, Expires: t.Expires,
	}
	var writes []tokenstore.Write
	var grant *tokenstore.Grant
	if login.Request.Flow != "" {
		grant = s.newSessionGrant(login, u, userID, account.ID)
		account.DeleteAfter = grant.Ends.Add(s.life.Retention)
	} else {
		client, err := s.clientOf(ctx, f, login)
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		var code *tokenstore.Code
		grant, code = s.newGrant(login, client, u, userID, account.ID, state)
		account.DeleteAfter = grant.DeleteAfter
		writes = append(writes, tokenstore.Save(code))
	}
	login.GrantID, grant.Agreed, grant.Providers = grant.ID, login.Agreed, []string{provider.Identity(), provider.Identity()}
	grant.Consent = login.Request.Consent
	if p := s.proxies[login.Request.Proxy]; p != nil {
		grant.Providers = p.providers()
	}
	grant.Provider, grant.UpstreamEnds = account.Provider, s.accounts.Ends(account)
	s.accounts.Withhold(account)
	writes = append(writes, tokenstore.Save(account), tokenstore.Save(grant), tokenstore.Save(login))
	for _, e := range s.loginFinished(ctx, login, grant) {
		writes = append(writes, tokenstore.RecordEvent(e))
	}
	err := s.settle(ctx, f, login, func(ctx context.Context) ([]tokenstore.Write, error) {
		if !login.Remember || login.Request.Flow != "" {
			return writes, nil
		}
		// Read for each attempt: another login may have remembered the same consent, or somebody forgotten it.
		consent, err := s.rememberConsent(ctx, login, grant.Client, userID)
		return append(slices.Clip(writes), consent...), err
	})
	if err != nil {
		return fmt.Errorf("store grant: %w", err)
	}
	return nil
}

// newGrant makes a client's grant, which lives as long as its code until that is redeemed.
func (s *Server) newGrant(login *tokenstore.Login, client *tokenstore.Client, u tokenstore.User, userID, accountID, state string) (*tokenstore.Grant, *tokenstore.Code) {
	now := s.vault.Now()
	codeEnd := now.Add(s.life.Code)
	req := &login.Request
	grant := &tokenstore.Grant{
		Meta:  tokenstore.Meta{ID: tokenstore.NewID(now), DeleteAfter: codeEnd.Add(2 * tidyAfter)}, // EndExpired comes before
		State: tokenstore.StateActive, ClientID: client.ID, Client: client.Name,
		Proxy: req.Proxy, Resource: req.Resource, Scopes: req.Scopes,
		UserID: userID, User: u, AccountID: accountID, RedirectURI: req.RedirectURI, ClientHash: req.ClientHash,
		Created: now, Expires: codeEnd, Ends: now.Add(s.life.RefreshTotal),
	}
	return grant, &tokenstore.Code{
		Meta:    tokenstore.Meta{ID: s.vault.Hash(purposeCode, s.vault.Derive(purposeCode, state)), DeleteAfter: codeEnd.Add(tidyAfter)},
		GrantID: grant.ID, ClientID: client.ID, RedirectURI: req.RedirectURI,
		CodeChallenge: req.CodeChallenge, PlainPKCE: req.PlainPKCE, Resource: req.Resource, Expires: codeEnd,
	}
}
