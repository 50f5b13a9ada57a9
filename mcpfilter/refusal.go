package mcpfilter

import (
	"cmp"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// refusal is an answer of our own in place of the MCP server's.
type refusal struct {
	status int

	// code is the OAuth error code (RFC 6750 section 3.1), or a word like one; text
	// says what to do. Both are public.
	code, text string

	// challenge adds WWW-Authenticate; bare leaves the error out of it, because
	// the client sent no credential that could be wrong (RFC 6750 section 3.1).
	challenge, bare bool

	// scopes are what the challenge asks for, where those are not the proxy's.
	scopes []string

	// retryAfter is when to try again.
	retryAfter time.Duration

	// rpc is the body where the client waits for one of JSON-RPC's.
	rpc any

	// hidden keeps the answer from scripts of other origins.
	hidden bool

	// cause is for the log only.
	cause error
}

// The codes that the audit trail tells apart.
const (
	codeDenied            = "access_denied"
	codeInsufficientScope = "insufficient_scope"
)

// retryLater is what an outage without a hint of its own answers in Retry-After.
const retryLater = 5 * time.Second

func badRequest(text string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "invalid_request", text: text}
}

// unreadable is for a body that cannot be read. Who stands in front of us may have a status for that, such as request_body.
func unreadable(err error) *refusal {
	no := badRequest("the body cannot be read")
	no.cause = err
	if he, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		no.status = he.StatusCode
	}
	return no
}

func malformedCredential(text string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "invalid_request", text: text, challenge: true}
}

func notFound() *refusal {
	return &refusal{status: http.StatusNotFound, code: "not_found", text: "no MCP server of this gateway has this path"}
}

func noCredential() *refusal {
	return &refusal{
		status: http.StatusUnauthorized, code: "invalid_token", text: "OAuth authentication required",
		challenge: true, bare: true,
	}
}

func invalidToken(text string, cause error) *refusal {
	return &refusal{status: http.StatusUnauthorized, code: "invalid_token", text: text, challenge: true, cause: cause}
}

func insufficientScope(scopes []string, text string) *refusal {
	return &refusal{
		status: http.StatusForbidden, code: codeInsufficientScope, text: text,
		challenge: true, scopes: scopes,
	}
}

func identityTooLarge() *refusal {
	return &refusal{
		status: http.StatusForbidden, code: "access_denied",
		text: "more is known of this user than fits into what this MCP server is told; the gateway's operator must have it told less",
	}
}

func unavailable(err error) *refusal {
	no := &refusal{
		status: http.StatusServiceUnavailable, code: "temporarily_unavailable",
		text: "the gateway cannot answer at the moment; try again later", retryAfter: retryLater, cause: err,
	}
	if u, ok := errors.AsType[*UnavailableError](err); ok {
		if u.RetryAfter > 0 {
			no.retryAfter = u.RetryAfter
		}
		no.text = cmp.Or(u.Advice, no.text)
	}
	return no
}

func badUpstream(text string, cause error) *refusal {
	return &refusal{status: http.StatusBadGateway, code: "bad_gateway", text: text, cause: cause}
}

// gatewayRefusal says what a Gateway's error means for the client: 401 only when logging in again helps.
func gatewayRefusal(err error) *refusal {
	reauth, told := errors.AsType[*ReauthError](err)
	switch {
	case told && reauth.Reason != "":
		return invalidToken("the connection to the MCP server's provider has ended ("+reauth.Reason+"); log in again", err)
	case errors.Is(err, ErrInvalidToken):
		return invalidToken("the access token is expired, revoked, or not meant for this MCP server", err)
	case errors.Is(err, ErrNeedsReauth):
		return invalidToken("the connection to the MCP server's provider has ended; log in again", err)
	case errors.Is(err, ErrStillRejected):
		return invalidToken("the MCP server does not accept this user's authorization; log in again", err)
	default:
		return unavailable(err)
	}
}

// refuse writes a refusal. It is a protocol answer, not an error: error routes must not turn it into a page.
func (f *Filter) refuse(w http.ResponseWriter, no *refusal) error {
	level := zap.DebugLevel
	if no.status >= http.StatusInternalServerError {
		level = zap.WarnLevel
	}
	f.log.Log(level, "request refused",
		zap.String("proxy", f.Proxy), zap.Int("status", no.status), zap.String("reason", no.text), zap.Error(no.cause))

	if a, ok := w.(*audited); ok {
		a.no = no
	}
	h := w.Header()
	protectResponse(h)
	if no.hidden {
		h.Del("Access-Control-Allow-Origin")
	}
	if no.challenge {
		h.Set("WWW-Authenticate", f.challenge(no))
	}
	if no.status == http.StatusMethodNotAllowed {
		h.Set("Allow", "GET, HEAD, POST, DELETE, OPTIONS") // RFC 9110 section 15.5.6
	}
	if no.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(no.retryAfter.Seconds())))))
	}
	answer := no.rpc
	if answer == nil {
		answer = struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}{no.code, no.text}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(no.status)
	_, err = w.Write(body)
	return err
}

// challenge is the WWW-Authenticate value (RFC 6750 section 3, RFC 9728 section 5.1).
func (f *Filter) challenge(no *refusal) string {
	value := `Bearer resource_metadata=` + quoted(f.proxy.MetadataURL)
	scopes := no.scopes
	if scopes == nil {
		scopes = f.proxy.Scopes
	}
	if len(scopes) > 0 {
		value += `, scope=` + quoted(strings.Join(scopes, " "))
	}
	if !no.bare {
		value += `, error=` + quoted(no.code) + `, error_description=` + quoted(no.text)
	}
	return value
}

// quoted is a quoted-string (RFC 9110 section 5.6.4).
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
