package mcpfilter

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"
)

// What jsonrpcMethod says of a body without one clear method.
const (
	methodBatch    = "batch"
	methodResponse = "response"
	methodUnknown  = "unknown"
)

// maxMethod is the longest JSON-RPC method name that is told apart.
const maxMethod = 64

// isJSON says whether the media type is JSON's.
func isJSON(h http.Header) bool {
	t := mediaType(h)
	return t == "application/json" || strings.HasSuffix(t, "+json")
}

// isEventStream says whether the media type is that of server-sent events.
func isEventStream(h http.Header) bool { return mediaType(h) == "text/event-stream" }

// mediaType returns the media type in lower case, or nothing when there is not exactly one.
func mediaType(h http.Header) string {
	values := h["Content-Type"]
	if len(values) != 1 {
		return ""
	}
	t, _, err := mime.ParseMediaType(values[0])
	if err != nil {
		return ""
	}
	return t
}

// jsonrpcMethod tells the JSON-RPC method of a request body, for log and
// placeholders. It is "unknown" whenever two parsers could disagree: not all of the
// body is there, it is no valid JSON, or it has "method" twice or in another case.
func jsonrpcMethod(body []byte, complete bool) string {
	if !complete {
		return methodUnknown
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	first, err := dec.Token()
	switch {
	case err != nil:
		return methodUnknown
	case first == json.Delim('['):
		return methodBatch
	case first != json.Delim('{'):
		return methodUnknown
	}
	var method string
	var answer bool
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return methodUnknown
		}
		name, _ := key.(string)
		if !strings.EqualFold(name, "method") {
			answer = answer || name == "result" || name == "error"
			if err := dec.Decode(&skipped{}); err != nil {
				return methodUnknown
			}
			continue
		}
		if name != "method" || method != "" {
			return methodUnknown
		}
		if err := dec.Decode(&method); err != nil || !plainMethod(method) {
			return methodUnknown
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return methodUnknown
	}
	if _, err := dec.Token(); err != io.EOF {
		return methodUnknown
	}
	switch {
	case method != "":
		return method
	case answer:
		return methodResponse
	default:
		return methodUnknown
	}
}

// plainMethod keeps what a client invents out of logs and labels.
func plainMethod(s string) bool {
	if s == "" || len(s) > maxMethod {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("/_-.$:", c))
	})
}

// skipped takes any JSON value and keeps nothing of it.
type skipped struct{}

// UnmarshalJSON implements json.Unmarshaler.
func (*skipped) UnmarshalJSON([]byte) error { return nil }
