package authserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Error is an OAuth error answer (RFC 6749 §5.2): what the client is told, and
// apart from it the cause, which only the log gets.
type Error struct {
	// Status is the HTTP status; zero means 400.
	Status int

	// Code is the OAuth error code, such as invalid_grant.
	Code string

	// Description is the error_description: for the chatbot's developer, without secrets.
	Description string

	// Cause is why, for the log. May be nil.
	Cause error

	// RetryAfter is when to try again, sent with 429 and 503. Default: 2 s.
	RetryAfter time.Duration
}

// setRetryAfter tells when to try again, where that would help.
func (e *Error) setRetryAfter(h http.Header) {
	if e.Status == http.StatusServiceUnavailable || e.Status == http.StatusTooManyRequests {
		h.Set("Retry-After", strconv.Itoa(seconds(cmp.Or(e.RetryAfter, 2*time.Second))))
	}
}

// Error implements error.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Code + ": " + e.Description + ": " + e.Cause.Error()
	}
	return e.Code + ": " + e.Description
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

func refuse(code, description string) *Error { return &Error{Code: code, Description: description} }

func (e *Error) because(cause error) *Error {
	e.Cause = cause
	return e
}

// asError turns any error into an answer. What is not an *Error is a fault of ours:
// 503 while the vault is unavailable, so that clients keep their tokens, else 500.
func asError(err error) *Error {
	var oe *Error
	switch {
	case errors.As(err, &oe):
		return oe
	case errors.Is(err, errUnreachableClient):
		return &Error{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable", RetryAfter: failedFor, Cause: err,
			Description: "the client's metadata document cannot be fetched or is not valid; nothing else is said about why, on purpose"}
	case VaultFault(err):
		return &Error{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable", Description: "the gateway cannot reach its vault at the moment; try again", Cause: err}
	default:
		return &Error{Status: http.StatusInternalServerError, Code: "server_error", Description: "the gateway met an unexpected fault; its log has the details", Cause: err}
	}
}

// VaultFault reports whether an error says that the vault does not answer, or not in time: nothing that the one who asks could do about it.
func VaultFault(err error) bool {
	for _, fault := range []error{tokenstore.ErrUnavailable, tokenstore.ErrClosed, tokenstore.ErrConflict, context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, fault) {
			return true
		}
	}
	return false
}

// unreachable reports whether an answer is 503 because the vault does not answer, and not because of a provider.
func unreachable(err error) bool {
	_, told := errors.AsType[*Error](err)
	_, provider := errors.AsType[*upstream.Error](err)
	return errors.Is(err, tokenstore.ErrUnavailable) || errors.Is(err, tokenstore.ErrClosed) || !told && !provider && VaultFault(err)
}

// writeError answers a client (not a person) with an OAuth error.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	e := asError(err)
	s.logRefusal(r, e, e.answered())
	sendError(w, r, e)
}

// answered is the status that the client sees.
func (e *Error) answered() int { return cmp.Or(e.Status, http.StatusBadRequest) }

// sendError is writeError for what is on record already.
func sendError(w http.ResponseWriter, r *http.Request, e *Error) {
	status := e.answered()
	progressOf(r.Context()).refused(e.Code, status)
	e.setRetryAfter(w.Header())
	if e.Code == "invalid_token" && status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	// RFC 6749 §5.2: a client that tried Basic is told so by a matching challenge.
	if e.Code == "invalid_client" && status == http.StatusUnauthorized && r.Header.Get("Authorization") != "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="oauth"`)
	}
	writeJSON(w, status, struct {
		Error       string `json:"error"`
		Description string `json:"error_description,omitempty"`
	}{e.Code, e.Description})
}

// logRefusal writes why a request was refused. The path is one of ours and holds no secret; the query is left out.
func (s *Server) logRefusal(r *http.Request, e *Error, status int) {
	progressOf(r.Context()).refused(e.Code, status)
	if unreachable(e.Cause) && !errors.Is(r.Context().Err(), context.Canceled) { // who goes away had the vault asked, and may have had it written
		s.refundDues(r)
	}
	level := zap.InfoLevel
	if status >= 500 {
		level = zap.ErrorLevel
	}
	s.log.Log(level, "request refused",
		zap.String("path", r.URL.Path),
		zap.Int("status", status),
		zap.String("error", e.Code),
		zap.String("description", e.Description),
		zap.NamedError("cause", withoutURL(e.Cause)))
}

// withoutURL drops the request URL that net/http puts into its errors: it may carry a code.
func withoutURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}

// writeJSON answers with a JSON body that no cache may keep (RFC 6749 §5.1).
func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"server_error"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
		h.Set("Pragma", "no-cache")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client is gone: nobody left to tell
}
