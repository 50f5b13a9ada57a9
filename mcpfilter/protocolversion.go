package mcpfilter

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// mirrored is the first protocol version whose servers must check that the headers Mcp-Method and Mcp-Name say what the body says (MCP 2026-07-28,
// Streamable HTTP). Before, clients may write into them what they like.
const mirrored = "2026-07-28"

// mirrors reports whether the request is of a protocol version whose headers say what the body says. Headers that Connection names do not reach the
// MCP server (RFC 9110 section 7.6.1), which then compares nothing.
func mirrors(h http.Header) bool {
	values := h["Mcp-Protocol-Version"]
	if len(values) != 1 || !isDate(values[0]) || values[0] < mirrored {
		return false
	}
	for name := range strings.SplitSeq(strings.Join(h["Connection"], ","), ",") {
		if hasPrefixFold(strings.TrimSpace(name), "Mcp-") {
			return false
		}
	}
	return true
}

// isDate reports whether a protocol version has the form of those of MCP: YYYY-MM-DD.
func isDate(version string) bool {
	const form = "0000-00-00"
	if len(version) != len(form) {
		return false
	}
	for i := range len(form) {
		if digit := '0' <= version[i] && version[i] <= '9'; form[i] == '-' && version[i] != '-' || form[i] == '0' && !digit {
			return false
		}
	}
	return true
}

// mirrorValue is the value of a header that mirrors the body; ok is false where it is not there once, or not well encoded.
func mirrorValue(h http.Header, name string) (value string, ok bool) {
	values := h[name]
	if len(values) != 1 {
		return "", false
	}
	encoded, found := strings.CutPrefix(values[0], "=?base64?")
	if !found {
		return values[0], true
	}
	encoded, found = strings.CutSuffix(encoded, "?=")
	if !found {
		return values[0], true
	}
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	return string(decoded), err == nil
}

// mirrorsBody reports which header says something else than the message; empty when none does. A header that is missing is the MCP server's
// business.
func mirrorsBody(h http.Header, m *message) (header string) {
	if m.method == "" {
		return ""
	}
	if _, there := h["Mcp-Method"]; there {
		if method, ok := mirrorValue(h, "Mcp-Method"); !ok || method != m.method {
			return "Mcp-Method"
		}
	}
	switch m.method {
	case "tools/call", "prompts/get", "resources/read":
	default:
		return ""
	}
	if _, there := h["Mcp-Name"]; there && m.unclear == nil {
		if name, ok := mirrorValue(h, "Mcp-Name"); !ok || name != m.name() {
			return "Mcp-Name"
		}
	}
	return ""
}
