package mcpfilter

import (
	"mime"
	"net/http"
	"strings"
)

// isJSON says whether the media type is JSON's.
func isJSON(h http.Header) bool {
	t := mediaType(h)
	return t == "application/json" || strings.HasSuffix(t, "+json")
}

// isEventStream says whether the media type is that of server-sent events.
func isEventStream(h http.Header) bool { return mediaType(h) == "text/event-stream" }

// foreignCharset says whether a body claims to be in another encoding than JSON's, which is UTF-8 (RFC 8259 section 8.1). There are servers that
// decode as they are told: in UTF-7, harmless letters become the name of another tool.
func foreignCharset(h http.Header) bool {
	value := h.Get("Content-Type")
	if !strings.Contains(value, ";") { // which parameters follow
		return false
	}
	_, params, err := mime.ParseMediaType(value)
	charset, told := params["charset"]
	return err == nil && told && !strings.EqualFold(charset, "utf-8")
}

// mediaType returns the media type in lower case, or nothing when there is not exactly one.
func mediaType(h http.Header) string {
	values := h["Content-Type"]
	if len(values) != 1 {
		return ""
	}
	switch values[0] { // as most write it
	case mediaJSON, mediaEvents:
		return values[0]
	case mediaJSON + "; charset=utf-8", mediaJSON + ";charset=utf-8":
		return mediaJSON
	}
	t, _, err := mime.ParseMediaType(values[0])
	if err != nil {
		return ""
	}
	return t
}
