package authserver

import (
	"context"
	"net/http"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/tracing"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Acts are told of what the server does, for metrics. They are called by many at a time, and must not take long. One that is not given is not called.
type Acts struct {
	// Stepped is told of each step of a login, and each request for a token, when it is answered. The proxy is empty where it is not known.
	Stepped func(step Step, outcome Outcome, proxy string)

	// Issued is told of each access token, and session token, that is handed out: by which grant type (RFC 6749), and how long it lives. The proxy of
	// a session token that is good for all of its provider is empty.
	Issued func(grantType, proxy string, life time.Duration)

	// Ended is told of each grant that is ended: why, and how long it has lived.
	Ended func(why Ending, proxy string, life time.Duration)

	// Limited is told of each request that a limit refuses, by the limit's name.
	Limited func(limit string)

	// Verified is told of each access token, and session token, that is looked at, good or not: whether its signature was remembered to be good, and so
	// not checked again.
	Verified func(remembered bool)
}

func (a *Acts) setDefaults() {
	if a.Stepped == nil {
		a.Stepped = func(Step, Outcome, string) {}
	}
	if a.Issued == nil {
		a.Issued = func(string, string, time.Duration) {}
	}
	if a.Ended == nil {
		a.Ended = func(Ending, string, time.Duration) {}
	}
	if a.Limited == nil {
		a.Limited = func(string) {}
	}
	if a.Verified == nil {
		a.Verified = func(bool) {}
	}
}

// Step is a step of a login, or a request about a token.
type Step string

// The steps, in the order in which a login takes them.
const (
	StepRegister     Step = "register"           // a client registers itself
	StepAuthorize    Step = "authorize"          // a client sends a user: the consent page is shown, or not needed
	StepConnect      Step = "connect"            // a user comes by themselves, without a client
	StepSessionStart Step = "session_start"      // a script asks for a session token
	StepSignIn       Step = "sign_in"            // a user, or an operator, signs in to the gateway's own pages
	StepConsent      Step = "consent"            // the user's answer
	StepCallback     Step = "callback"           // the provider sends the user back
	StepToken        Step = "token"              // a request to the token endpoint that is refused before it is known what for
	StepCode         Step = "code"               // a client redeems an authorization code: its login is complete
	StepRefresh      Step = "refresh"            // a client redeems a refresh token, or a script renews a session token
	StepMachine      Step = "client_credentials" // a client asks for a token of its own
	StepRevoke       Step = "revoke"             // a client revokes a token, or a script logs out
)

// Steps are all of them.
func Steps() []Step {
	return []Step{StepRegister, StepAuthorize, StepConnect, StepSessionStart, StepSignIn, StepConsent, StepCallback, StepToken, StepCode, StepRefresh, StepMachine, StepRevoke}
}

// Outcome is how a step ended.
type Outcome string

// The outcomes.
const (
	OutcomeOK      Outcome = "ok"
	OutcomeDenied  Outcome = "denied"  // the user said no, or may not come in
	OutcomeRefused Outcome = "refused" // for what the request is
	OutcomeLimited Outcome = "limited" // too many of them
	OutcomeFailed  Outcome = "failed"  // the provider, the vault or the gateway is out of order
)

// Outcomes are all of them.
func Outcomes() []Outcome {
	return []Outcome{OutcomeOK, OutcomeDenied, OutcomeRefused, OutcomeLimited, OutcomeFailed}
}

// Ending is why a grant ended.
type Ending string

// The endings.
const (
	EndingExpired  Ending = "expired"
	EndingUnused   Ending = "unused"   // its code was never redeemed
	EndingReuse    Ending = "reuse"    // a refresh token that had been replaced, or a code, was used again: somebody may have stolen it
	EndingClient   Ending = "client"   // the client revoked it, or deleted its registration
	EndingLogout   Ending = "logout"   // of a session
	EndingReplaced Ending = "replaced" // by newer ones of the same user and client
	EndingRevoked  Ending = "revoked"  // by the user or an operator
)

// Endings are all of them.
func Endings() []Ending {
	return []Ending{EndingExpired, EndingUnused, EndingReuse, EndingClient, EndingLogout, EndingReplaced, EndingRevoked}
}

// grantSession is the grant type of session tokens, which are of no OAuth client.
const grantSession = "session"

// GrantTypes are the grant types by which tokens are issued.
func GrantTypes() []string { return []string{grantCode, grantRefresh, grantMachine, grantSession} }

// Why this package ends grants.
const (
	reasonReuse     = "refresh token used again after it was replaced"
	reasonCodeTwice = "authorization code used twice"
	reasonClient    = "revoked by the client"
	reasonDeleted   = "the client deleted its registration"
	reasonLogout    = "logged out"
	reasonTooMany   = "the user logged in more often than grants are kept"
	reasonExpired   = "expired"
	reasonUser      = "ended by the user"
)

// endings are the reasons that this package gives for ending a grant by itself. All others are people's.
var endings = map[string]Ending{
	reasonExpired: EndingExpired, reasonReuse: EndingReuse, reasonCodeTwice: EndingReuse, reasonClient: EndingClient, reasonDeleted: EndingClient,
	reasonLogout: EndingLogout, reasonTooMany: EndingReplaced,
}

// tellEnded tells of a grant that was just ended. That of a client which acts for itself is for one token, and not worth telling that it has expired.
func (s *Server) tellEnded(g *tokenstore.Grant) {
	why, own := endings[g.Reason]
	switch {
	case !own:
		why = EndingRevoked
	case why == EndingExpired && g.AccountID == "":
		return
	case why == EndingExpired && g.Family.Rotated.IsZero():
		why = EndingUnused
	}
	s.acts.Ended(why, g.Proxy, s.vault.Now().Sub(g.Created))
}

// tellIssued tells of a grant's newest token.
func (s *Server) tellIssued(ctx context.Context, grantType string, g *tokenstore.Grant, end time.Time) {
	s.acts.Issued(grantType, g.Proxy, end.Sub(g.Family.Rotated))
	tracing.Of(ctx).Set("grant", g.ID)
}

// progress is what becomes known of a step while its request is answered.
type progress struct {
	step    Step
	outcome Outcome
	proxy   string
}

type progressKey struct{}

// progressOf is that of a request; one that nobody looks at where the endpoint takes no step.
func progressOf(ctx context.Context) *progress {
	if p, ok := ctx.Value(progressKey{}).(*progress); ok {
		return p
	}
	return new(progress)
}

// steps has an endpoint's requests counted, and traced, as a step.
func (s *Server) steps(step Step, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p := &progress{step: step, outcome: OutcomeOK}
		if pinned := s.proxies[r.PathValue("proxy")]; pinned != nil {
			p.proxy = pinned.ID
		}
		ctx, span := tracing.Start(context.WithValue(r.Context(), progressKey{}, p), "oauth_proxy "+string(step))
		defer span.End()
		h(w, r.WithContext(ctx))
		if p.step == "" {
			return
		}
		span.Set("step", string(p.step))
		span.Set("outcome", string(p.outcome))
		span.Set("proxy", p.proxy)
		if p.outcome == OutcomeFailed {
			span.Fail(string(p.outcome))
		}
		s.acts.Stepped(p.step, p.outcome, p.proxy)
	}
}

// isFor notes which login a callback is of.
func (p *progress) isFor(login *tokenstore.Login) {
	if login != nil {
		p.proxy = login.Request.Proxy
	}
}

// loginDone notes how a login ended at the provider.
func (p *progress) loginDone(login *tokenstore.Login) {
	if code, _ := loginError(login); code != "" {
		p.refused(code, http.StatusSeeOther)
	}
}

// isNone has nothing counted: the request was no step after all.
func (p *progress) isNone() { p.step = "" }

// refused notes how a request was answered that was refused.
func (p *progress) refused(code string, status int) {
	switch {
	case status == http.StatusTooManyRequests:
		p.outcome = OutcomeLimited
	case status >= http.StatusInternalServerError || code == "temporarily_unavailable" || code == "server_error":
		p.outcome = OutcomeFailed
	case code == "access_denied":
		p.outcome = OutcomeDenied
	default:
		p.outcome = OutcomeRefused
	}
}
