package operator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// route is one method of one path, and the query parameters that it knows. handle returns what is answered as JSON, with 200; nil says that it has
// answered by itself.
type route struct {
	method, path string
	query        []string
	handle       func(http.ResponseWriter, *http.Request) (any, error)
}

// paging are the query parameters of lists.
var paging = []string{"after", "limit"}

// routes is the whole API.
func (s *Server) routes() []route {
	return []route{
		{"GET", "/openapi.json", nil, s.serveOpenAPI},
		{"GET", "/tokens", grantParameters, s.listGrants},
		{"GET", "/tokens/{id}", nil, s.showGrant},
		{"DELETE", "/tokens/{id}", []string{"reason"}, s.endGrant},
		{"GET", "/grants", grantParameters, s.listGrants},
		{"GET", "/grants/{id}", nil, s.showGrant},
		{"DELETE", "/grants/{id}", []string{"reason"}, s.endGrant},
		{"GET", "/revocations", paging, s.listRevocations},
		{"POST", "/revocations", nil, s.revokeGrants},
		{"GET", "/revocations/{id}", nil, s.showRevocation},
		{"GET", "/clients", slices.Concat([]string{"kind"}, paging), s.listClients},
		{"GET", "/clients/{id}", nil, s.showClient},
		{"DELETE", "/clients/{id}", []string{"reason"}, s.deleteClient},
		{"GET", "/sessions", paging, s.listSessions},
		{"DELETE", "/sessions/{id}", nil, s.endSession},
		{"GET", "/api_keys", nil, s.listAPIKeys},
		{"POST", "/api_keys", nil, s.createAPIKey},
		{"DELETE", "/api_keys/{id}", nil, s.revokeAPIKey},
		{"GET", "/signing_keys", nil, s.listSigningKeys},
		{"POST", "/signing_keys/rotate", []string{"compromised"}, s.rotateSigningKey},
		{"GET", "/audit", slices.Concat(auditParameters, paging), s.queryAudit},
		{"GET", "/audit/export", slices.Concat([]string{"format"}, auditParameters), s.exportAudit},
		{"GET", "/audit/verify", []string{"anchor"}, s.verifyAudit},
		{"GET", "/audit/{id}", nil, s.showEvent},
		{"GET", "/stats", nil, s.showStats},
		{"GET", "/proxies", nil, s.listProxies},
		{"GET", "/providers", nil, s.listProviders},
		{"GET", "/vault", nil, s.showVault},
		{"GET", "/verify", nil, s.verifyVault},
		{"GET", "/rekey", []string{"follow"}, s.showRekey},
		{"POST", "/rekey", nil, s.beginRekey},
		{"GET", "/migration", nil, s.showMigration},
		{"POST", "/migration", nil, s.beginMigration},
		{"DELETE", "/migration", nil, s.abortMigration},
		{"POST", "/compact", nil, s.compact},
		{"POST", "/assistant", nil, s.assist},
	}
}

// route finds the route of a request. A path that is not written as it should be is none: the mux would redirect it, to where the API need not be.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	if escaped := r.URL.EscapedPath(); path.Clean("/"+escaped) != strings.TrimSuffix(escaped, "/") {
		s.refuse(w, r, errNoRoute())
		return
	}
	s.mux.ServeHTTP(w, r)
}

func errNoRoute() error {
	return denied(http.StatusNotFound, "not_found", "there is no such route: openapi.json lists them")
}

// mount fills the mux: one handler a path, which knows its methods, so that refusals of a method are JSON as all others.
func (s *Server) mount() {
	paths := make(map[string]map[string]route)
	for _, r := range s.routes() {
		if paths[r.path] == nil {
			paths[r.path] = make(map[string]route)
		}
		paths[r.path][r.method] = r
	}
	for at, methods := range paths {
		s.mux.HandleFunc(at, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, methods) })
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, r, errNoRoute())
	})
}

// serve answers one path.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, methods map[string]route) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	to, known := methods[method]
	if !known {
		var allowed []string
		for _, m := range []string{"GET", "POST", "DELETE"} {
			if _, ok := methods[m]; ok {
				allowed = append(allowed, m)
			}
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		s.refuse(w, r, denied(http.StatusMethodNotAllowed, "invalid_request", "use "+strings.Join(allowed, ", or ")))
		return
	}
	if err := checkRequest(r, to.query); err != nil {
		s.refuse(w, r, err)
		return
	}
	if !slices.Contains(thorough, to.path) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTime)
		defer cancel()
		r = r.WithContext(ctx)
	}
	answer, err := to.handle(w, r)
	switch {
	case err != nil:
		s.refuse(w, r, err)
	case answer != nil:
		writeJSON(w, http.StatusOK, answer)
	}
}

// requestTime bounds how long a request waits for a vault that is slow.
const requestTime = 30 * time.Second

// thorough are the routes and pages that go through as much of the vault as there is, for as long as somebody waits for them.
var thorough = []string{"/audit/export", "/audit/verify", "/verify", "/rekey", "/compact", "/revocations", "/admin/audit/verify", "/admin/revoke"}

// checkRequest refuses what the route does not know: a filter that is misspelt, or given twice, must not list, let alone end, everything.
func checkRequest(r *http.Request, known []string) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return bad("the query cannot be read: escape what is no letter or digit")
	}
	for name, values := range query {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			return bad("query parameter %q is unknown: there are none here", name)
		case !slices.Contains(known, name):
			return bad("query parameter %q is unknown: there are %s", name, strings.Join(known, ", "))
		case len(values) > 1:
			return bad("query parameter %q is there more than once", name)
		case values[0] == "": // such as that of a variable that a script forgot to set
			return bad("query parameter %q is empty: give it a value, or leave it out", name)
		case len(values[0]) > maxParameter || strings.ContainsFunc(values[0], func(c rune) bool { return c < ' ' || c == 0x7f }):
			return bad("query parameter %q is too long, or has control characters", name)
		}
	}
	if id := r.PathValue("id"); len(id) > maxParameter || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return denied(http.StatusNotFound, "not_found", "there is nothing of this id")
	}
	return nil
}

const (
	// maxParameter bounds a query parameter and an id, in bytes.
	maxParameter = 512

	// maxBody bounds the body of a request.
	maxBody = 64 << 10

	// defaultLimit and maxLimit are the sizes of a page.
	defaultLimit, maxLimit = 100, 1000
)

// param is a query parameter. What a body calls by the same name is no part of it.
func param(r *http.Request, name string) string { return r.URL.Query().Get(name) }

// limitOf reads the size of a page.
func limitOf(r *http.Request) (int, error) {
	text := param(r, "limit")
	if text == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxLimit {
		return 0, bad("limit must be 1 to %d", maxLimit)
	}
	return n, nil
}

// linkNext tells where a list goes on (RFC 8288), as a reference to the same path.
func linkNext(w http.ResponseWriter, r *http.Request, next string) {
	if next == "" {
		return
	}
	query := r.URL.Query()
	query.Set("after", next)
	w.Header().Set("Link", "<?"+query.Encode()+`>; rel="next"`)
}

// readJSON reads the one JSON object that a body is. What it does not know it refuses: with a filter that is left out for a slip of the pen, more would
// be ended than was asked for.
func readJSON(w http.ResponseWriter, r *http.Request, into any, members string) error {
	// Web pages cannot send this type to another origin without being asked first.
	if !isJSON(r) {
		return denied(http.StatusUnsupportedMediaType, "invalid_request", "send a JSON object, with Content-Type: application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return denied(http.StatusRequestEntityTooLarge, "invalid_request", fmt.Sprintf("the body is too large: %d bytes are the most", tooLarge.Limit))
	}
	if err != nil {
		return bad("the body broke off")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return bad("send a JSON object with %s: %v", members, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad("send one JSON object")
	}
	return checkMembers(json.NewDecoder(bytes.NewReader(body)), "the object")
}

// denied is a refusal with its status.
func denied(status int, code, description string) error {
	return &authserver.Error{Status: status, Code: code, Description: description}
}

// bad is a refusal of a request that is wrong in itself.
func bad(format string, args ...any) error {
	return denied(http.StatusBadRequest, "invalid_request", fmt.Sprintf(format, args...))
}

// Unavailable answers 503 for a gateway that is not there, in the API's own form.
func Unavailable(w http.ResponseWriter, code string, why error) {
	writeError(w, &authserver.Error{Status: http.StatusServiceUnavailable, Code: code, Description: why.Error()})
}

// refuse answers with an error. What is not the operator's mistake only the log gets the cause of.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	writeError(w, s.explain(r, err))
}

// explain makes an error one that operators are told, and logs it with its cause.
func (s *Server) explain(r *http.Request, err error) *authserver.Error {
	e, ok := errors.AsType[*authserver.Error](err)
	switch {
	case ok:
	case errors.Is(err, tokenstore.ErrNotFound):
		e = &authserver.Error{Status: http.StatusNotFound, Code: "not_found", Description: "there is nothing of this id"}
	case errors.Is(err, tokenstore.ErrReadOnly):
		e = &authserver.Error{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable", Description: "nothing was changed: " + err.Error() +
			"; try again when that is done, or end it with caddy oauth-proxy migrate --abort"}
	case authserver.VaultFault(err):
		e = &authserver.Error{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable", Description: "the gateway cannot reach its vault at the moment; try again"}
	default:
		e = &authserver.Error{Status: http.StatusInternalServerError, Code: "server_error", Description: "the gateway met an unexpected fault; its log has the details"}
	}
	level := zap.InfoLevel
	if e.Status >= 500 {
		level = zap.ErrorLevel
	}
	s.log.Log(level, "request of an operator refused", zap.String("actor", by(r.Context())), zap.String("method", r.Method), zap.String("path", r.URL.Path),
		zap.Int("status", cmp.Or(e.Status, http.StatusBadRequest)), zap.String("error", e.Code), zap.String("description", e.Description), zap.NamedError("cause", err))
	return e
}

func writeError(w http.ResponseWriter, e *authserver.Error) {
	if e.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2")
	}
	writeJSON(w, cmp.Or(e.Status, http.StatusBadRequest), struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{e.Code, e.Description})
}

// writeJSON answers with a JSON body that no cache may keep.
func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"server_error","error_description":"the answer cannot be written as JSON"}`)
	}
	setHeaders(w, "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client is gone: nobody left to tell
}

func setHeaders(w http.ResponseWriter, contentType string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}
