package authserver

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"time"
)

// maxForm bounds the body of every form and of a registration, in bytes.
const maxForm = 16 << 10

// bodyTime bounds how long such a body may take. A server without timeouts of its own would wait for ever for one that comes byte by byte.
const bodyTime = 30 * time.Second

// boundBody bounds the body of a request in size and time.
func boundBody(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // what is no connection cannot be a slow one
}

// readForm reads a form-encoded body (RFC 6749 §3.2). A parameter sent twice is an
// error, an empty one counts as absent, and parameters in the URL are ignored.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return nil, refuse("invalid_request", "the body must be application/x-www-form-urlencoded")
	}
	boundBody(w, r)
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
	boundBody(w, r)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, bodyError(err, "the body could not be read")
	}
	return body, nil
}

func bodyError(err error, description string) *Error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: "invalid_request", Description: "the body is larger than 16 KiB"}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &Error{Status: http.StatusRequestTimeout, Code: "invalid_request", Description: "the body took longer than 30 seconds", Cause: err}
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
