package mcpfilter

import (
	"maps"
	"slices"
	"strings"
)

// DeletedHeaders are the request headers that never go upstream, folded, a trailing star standing for any ending.
func DeletedHeaders() []string {
	names := slices.Collect(maps.Keys(deletedHeaders.exact))
	for _, prefix := range deletedHeaders.prefixes {
		names = append(names, prefix+"*")
	}
	return names
}

// WithheldHeaders are the response headers that are not the MCP server's to set.
var WithheldHeaders = withheldHeaders

// FoldName is how the names of request headers are compared. A star at the end stays.
func FoldName(name string) string {
	if prefix, ok := strings.CutSuffix(name, "*"); ok {
		return foldName(prefix) + "*"
	}
	return foldName(name)
}
