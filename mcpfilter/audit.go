package mcpfilter

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// auditLogger is the name of the audit trail's logger, under the filter's own.
const auditLogger = "audit"

// The values of the field decision.
const (
	decisionAllowed         = "allowed"
	decisionDenied          = "denied"             // by the proxy's policy
	decisionStepUp          = "insufficient_scope" // the client is told what to ask the user for
	decisionUnauthenticated = "unauthenticated"
	decisionRefused         = "refused" // for what the request is, or because something is out of order
)

// maxArgument is how much of an argument goes into the audit trail, in bytes.
const maxArgument = 256

// errBrokenOff is what the audit trail tells of a request that ended in the middle.
var errBrokenOff = errors.New("the answer was broken off")

// audited is a response that the audit trail tells of.
type audited struct {
	*caddyhttp.ResponseWriterWrapper
	began  time.Time
	status int
	bytes  int64

	// no is what was answered in place of the MCP server, and x is set when it is known who asks.
	no *refusal
	x  *exchange
}

func newAudited(w http.ResponseWriter) *audited {
	return &audited{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, began: time.Now()}
}

// WriteHeader notes the status.
func (a *audited) WriteHeader(status int) {
	if a.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write counts.
func (a *audited) Write(p []byte) (int, error) {
	n, err := a.ResponseWriter.Write(p)
	a.bytes += int64(n)
	return n, err
}

// ReadFrom counts.
func (a *audited) ReadFrom(r io.Reader) (int64, error) {
	n, err := a.ResponseWriterWrapper.ReadFrom(r)
	a.bytes += n
	return n, err
}

// record writes a request's line of the audit trail.
func (f *Filter) record(a *audited, r *http.Request, method, path string, err error) {
	entry := f.audit.Check(zap.InfoLevel, "mcp request")
	if entry == nil {
		return
	}
	clientIP, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	fields := make([]zap.Field, 0, 24)
	fields = append(fields,
		zap.String("proxy", f.proxy.ID), zap.String("decision", a.decision()), zap.String("method", method), zap.String("path", path), zap.String("client_ip", clientIP),
		zap.Int("status", a.answered(err)), zap.Int64("bytes", a.bytes), zap.Duration("duration", time.Since(a.began)))
	if a.x != nil {
		fields = append(fields, f.aboutExchange(a.x)...)
	}
	if a.no != nil {
		fields = append(fields, zap.String("reason", a.no.text))
		if err == nil {
			err = a.no.cause
		}
	}
	entry.Write(append(fields, zap.Error(err))...)
}

// aboutExchange is what is known of a request when it is known who asks.
func (f *Filter) aboutExchange(x *exchange) []zap.Field {
	grant := x.session.Grant
	fields := []zap.Field{
		zap.String("user", grant.User.Label()), zap.String("user_id", grant.UserID), zap.String("client_id", grant.ClientID), zap.String("client", grant.Client),
		zap.String("grant", grant.ID), zap.String("jti", x.session.JTI),
		zap.String("mcp_method", x.method), zap.String("mcp_target", string(x.target)), zap.String("mcp_name", x.name),
	}
	if x.upstreamStatus != 0 {
		fields = append(fields, zap.Int("upstream_status", x.upstreamStatus))
	}
	if arguments := x.arguments(f.proxy.AuditArguments); len(arguments) > 0 {
		fields = append(fields, zap.Any("arguments", arguments))
	}
	return fields
}

// answered is the status that the client saw, or sees when the error has become an answer.
func (a *audited) answered(err error) int {
	switch he, ok := errors.AsType[caddyhttp.HandlerError](err); {
	case a.status != 0:
		return a.status
	case ok && he.StatusCode != 0:
		return he.StatusCode
	case err != nil:
		return http.StatusInternalServerError
	default:
		return http.StatusOK
	}
}

// decision says in a word what became of the request.
func (a *audited) decision() string {
	switch {
	case a.no == nil && a.x != nil && a.x.passed:
		return decisionAllowed
	case a.no == nil: // it could not even be read
		return decisionRefused
	case a.no.code == codeDenied && a.no.rpc != nil:
		return decisionDenied
	case a.no.code == codeInsufficientScope:
		return decisionStepUp
	case a.x == nil && a.no.challenge:
		return decisionUnauthenticated
	default:
		return decisionRefused
	}
}

// arguments are those of a tool call that the operator wants to see, as JSON, shortened.
func (x *exchange) arguments(wanted []string) map[string]string {
	if len(wanted) == 0 || x.target != TargetTool || x.body == nil {
		return nil
	}
	m := x.body.contents().one()
	if m == nil {
		return nil
	}
	var params struct {
		Arguments map[string]json.RawMessage `json:"arguments"`
	}
	if json.Unmarshal(m.params, &params) != nil {
		return nil
	}
	told := make(map[string]string)
	for name, value := range params.Arguments {
		if slices.Contains(wanted, name) {
			told[name] = string(value[:min(len(value), maxArgument)])
		}
	}
	return told
}
