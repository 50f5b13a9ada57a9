package operator

import (
	_ "embed"
	"net/http"
)

// document describes the API (OpenAPI 3.1).
//
//go:embed openapi.json
var document []byte

// serveOpenAPI is GET /openapi.json.
func (s *Server) serveOpenAPI(w http.ResponseWriter, _ *http.Request) (any, error) {
	setHeaders(w, "application/json")
	_, _ = w.Write(document) // the client is gone: nobody left to tell
	return nil, nil
}
