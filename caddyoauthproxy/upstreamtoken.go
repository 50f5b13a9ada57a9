package caddyoauthproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

// UpstreamToken says which token goes to a server.
type UpstreamToken struct {
	// Where it comes from: `user` is the token that the provider gave at the user's login; `client_credentials` is one that the provider gives the
	// gateway itself; `exchange` is one that the user's token is exchanged for (RFC 8693); `static` is always the same. Default: `user`.
	Source string `json:"source,omitempty"`

	// The provider that is asked, for `client_credentials`. Default: the proxy's.
	Provider string `json:"provider,omitempty"`

	// The token, for `static`, as a placeholder: `{env.NAME}` or `{file./absolute/path}`.
	Token string `json:"token,omitempty"`

	// The header in which a `static` token travels as it is, such as `X-API-Key`. Default: `Authorization`, as a bearer token.
	Header string `json:"header,omitempty"`

	// The scopes to ask for, for `client_credentials` and `exchange`.
	Scopes []string `json:"scopes,omitempty"`

	// Further parameters of the token request, such as `audience` or `resource`, for `client_credentials` and `exchange`.
	Params map[string]string `json:"params,omitempty"`

	// Asks the provider for each call, instead of keeping the token until shortly before its end.
	Fresh bool `json:"fresh,omitempty"`
}

// The values of UpstreamToken.Source.
const (
	sourceUser     = "user"
	sourceMachine  = "client_credentials"
	sourceExchange = "exchange"
	sourceStatic   = "static"
)

var headerName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,63}$`)

// check finds what is wrong apart from the values behind placeholders.
func (u *UpstreamToken) check() error {
	asks := u.Source == sourceMachine || u.Source == sourceExchange
	switch {
	case u.Source != "" && u.Source != sourceUser && u.Source != sourceStatic && !asks:
		return fmt.Errorf("upstream_token %q is unknown; known are user, client_credentials, exchange and static", u.Source)
	case u.Source == sourceStatic && u.Token == "":
		return errors.New("upstream_token static needs a token, as a placeholder such as {env.API_KEY}")
	case u.Source != sourceStatic && (u.Token != "" || u.Header != ""):
		return errors.New("upstream_token: token and header are for static")
	case u.Source != sourceMachine && u.Provider != "":
		return errors.New("upstream_token: provider is for client_credentials")
	case !asks && (len(u.Scopes) > 0 || len(u.Params) > 0 || u.Fresh):
		return errors.New("upstream_token: scopes, param and fresh are for client_credentials and exchange")
	case u.Header != "" && (!headerName.MatchString(u.Header) || strings.HasPrefix(http.CanonicalHeaderKey(u.Header), "Mcp-")):
		return fmt.Errorf("upstream_token: %q is no header for a key, such as X-API-Key", u.Header)
	}
	if u.Token != "" {
		if err := checkSecret(u.Token); err != nil {
			return fmt.Errorf("upstream_token: token %w", err)
		}
	}
	if err := (upstream.TokenRequest{Scopes: u.Scopes, Params: u.Params}).Check(); err != nil {
		return fmt.Errorf("upstream_token: %w", err)
	}
	return nil
}

// tokenSource is where a proxy's upstream tokens come from.
type tokenSource struct {
	kind    string
	static  string
	machine string // for clients that act for no user, where the kind has none
	header  string
	made    *upstream.Made
}

// resolve makes the source of a proxy whose users log in at the given provider.
func (u *UpstreamToken) resolve(own *upstream.Provider, providers map[string]*upstream.Provider, log *zap.Logger) (*tokenSource, error) {
	if err := u.check(); err != nil {
		return nil, err
	}
	s := &tokenSource{kind: u.Source, header: u.Header}
	request := upstream.TokenRequest{Scopes: u.Scopes, Params: u.Params}
	switch u.Source {
	case "":
		s.kind = sourceUser
	case sourceStatic:
		var err error
		if s.static, err = resolveSecret(u.Token); err != nil {
			return nil, fmt.Errorf("upstream_token: %w", err)
		}
	case sourceMachine:
		p := own
		if u.Provider != "" {
			var declared bool
			if p, declared = providers[u.Provider]; !declared {
				return nil, fmt.Errorf("upstream_token: provider %q is not declared; declared are: %s", u.Provider, listed(providers))
			}
		}
		if p != nil { // otherwise it is reported already
			s.made = p.MachineTokens(request, !u.Fresh, log)
		}
	case sourceExchange:
		if own == nil {
			break
		}
		if own.Anonymous() { // whoever protects the MCP server today is not to be sent a token that another one gave
			return nil, fmt.Errorf("upstream_token: exchange is not for provider %q of type mcp, whose tokens are the MCP server's already", own.Name())
		}
		s.made = own.ExchangedTokens(request, !u.Fresh, log)
	}
	return s, nil
}

// shared reports whether the token is the same for all users.
func (s *tokenSource) shared() bool { return s.kind == sourceStatic || s.kind == sourceMachine }

// forMachines reports whether the source has a token for clients that act for no user.
func (s *tokenSource) forMachines() bool {
	return s.shared() || s.machine != ""
}

// token is the token to send for a session.
func (s *tokenSource) token(ctx context.Context, g *gateway, session *mcpfilter.Session) (string, error) {
	switch {
	case s.kind == sourceStatic:
		return s.static, nil
	case s.kind == sourceMachine:
		return s.made.Token(ctx, "", "")
	case session.Grant.AccountID == "" && s.machine == "":
		return "", fmt.Errorf("%w: the proxy has no token for clients without a user any more", upstream.ErrNeedsReauth)
	case session.Grant.AccountID == "":
		return s.machine, nil
	case s.kind == sourceExchange:
		subject, err := g.accounts.Token(ctx, session.Grant.AccountID)
		if err != nil {
			return "", err
		}
		return s.made.Token(ctx, session.Grant.AccountID+" "+subject, subject)
	default:
		return g.accounts.Token(ctx, session.Grant.AccountID)
	}
}

// errOperatorsToken says that the upstream refuses a token that no login of the user's can change.
var errOperatorsToken = errors.New("the upstream refuses the token that the gateway is configured to send")

// rejected is another token than the one that the upstream refused.
func (s *tokenSource) rejected(ctx context.Context, g *gateway, session *mcpfilter.Session, token string) (string, error) {
	switch {
	case s.kind == sourceStatic || s.kind != sourceMachine && session.Grant.AccountID == "":
		return "", &upstream.UnavailableError{Err: errOperatorsToken}
	case s.kind == sourceMachine:
		next, err := s.made.Rejected(ctx, "", "", token)
		if errors.Is(err, upstream.ErrStillRejected) {
			err = &upstream.UnavailableError{Err: errOperatorsToken}
		}
		return next, err
	case s.kind == sourceExchange:
		subject, err := g.accounts.Token(ctx, session.Grant.AccountID)
		if err != nil {
			return "", err
		}
		return s.made.Rejected(ctx, session.Grant.AccountID+" "+subject, subject, token)
	default:
		return g.accounts.Rejected(ctx, session.Grant.AccountID, token)
	}
}
