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
	"go.uber.org/zap/zapcore"
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

// errBrokenOff is what became of a request whose handler did not return.
var errBrokenOff = errors.New("the response broke off")

// audited is a response that the audit trail tells of.
type audited struct {
	caddyhttp.ResponseWriterWrapper
	began  time.Time
	status int
	bytes  int64

	// no is what was answered in place of the MCP server, and x is set when it is known who asks.
	no *refusal
	x  *exchange
}

// begin is called when the request comes.
func (a *audited) begin(w http.ResponseWriter) { a.ResponseWriter, a.began = w, time.Now() }

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
	if entry := f.audit.Check(zap.InfoLevel, "mcp request"); entry != nil {
		entry.Write(zap.Inline(&auditLine{audited: a, filter: f, r: r, method: method, path: path, err: err}))
	}
}

// auditLine is what such a line says.
type auditLine struct {
	*audited
	filter       *Filter
	r            *http.Request
	method, path string
	err          error
}

// MarshalLogObject writes the fields.
func (l *auditLine) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	clientIP, _ := caddyhttp.GetVar(l.r.Context(), caddyhttp.ClientIPVarKey).(string)
	enc.AddString("proxy", l.filter.proxy.ID)
	enc.AddString("decision", l.decision())
	enc.AddString("method", l.method)
	enc.AddString("path", l.path)
	enc.AddString("client_ip", clientIP)
	enc.AddInt("status", l.answered(l.err))
	enc.AddInt64("bytes", l.bytes)
	enc.AddDuration("duration", time.Since(l.began))
	if l.x != nil {
		l.aboutExchange(enc)
	}
	err := l.err
	if l.no != nil {
		enc.AddString("reason", l.no.text)
		if err == nil {
			err = l.no.cause
		}
	}
	zap.Error(err).AddTo(enc)
	return nil
}

// aboutExchange tells what is known of a request when it is known who asks.
func (l *auditLine) aboutExchange(enc zapcore.ObjectEncoder) {
	x, grant := l.x, l.x.session.Grant
	enc.AddString("user", grant.User.Label())
	enc.AddString("user_id", grant.UserID)
	enc.AddString("client_id", grant.ClientID)
	enc.AddString("client", grant.Client)
	enc.AddString("grant", grant.ID)
	enc.AddString("jti", x.session.JTI)
	enc.AddString("mcp_method", x.method)
	enc.AddString("mcp_target", string(x.target))
	enc.AddString("mcp_name", x.name)
	if x.upstreamStatus != 0 {
		enc.AddInt("upstream_status", x.upstreamStatus)
	}
	if arguments := x.arguments(l.filter.proxy.AuditArguments); len(arguments) > 0 {
		zap.Any("arguments", arguments).AddTo(enc)
	}
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
	case a.no == nil:
		return decisionAllowed
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
