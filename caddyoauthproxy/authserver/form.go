package authserver

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
)

// maxForm bounds the body of every form and of a registration, in bytes.
const maxForm = 16 << 10

// readForm reads a form-encoded body (RFC 6749 §3.2). A parameter sent twice is an
// error, an empty one counts as absent, and parameters in the URL are ignored.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return nil, refuse("invalid_request", "the body must be application/x-www-form-urlencoded")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return nil, bodyError(err, "the body is not a well-formed form")
	}
	if err := noRepeats(r.PostForm); err != nil {
		return nil, err
	}
	return r.PostForm, nil
}

// readBody reads a body of any type.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		return nil, bodyError(err, "the body could not be read")
	}
	return body, nil
}

func bodyError(err error, description string) *Error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: "invalid_request", Description: "the body is larger than 16 KiB"}
	}
	return refuse("invalid_request", description).because(err)
}

// noRepeats refuses repeated parameters (OAuth 2.1 §3.1); resource alone may be repeated, but
// an access token of this gateway is for one resource.
func noRepeats(q url.Values) *Error {
	for name, values := range q {
		if len(values) > 1 {
			if name == "resource" {
				return refuse("invalid_target", "one resource at a time: ask for a token per MCP server")
			}
			return refuse("invalid_request", "a parameter is sent more than once")
		}
	}
	return nil
}
