package wwwauth

import "strings"

// What an upstream can have a client ask for: so much that an access token which names all of it still fits into a header.
const (
	maxDemanded      = 20
	maxDemandedBytes = 1500
)

// Fits reports whether so many scopes beside the gateway's own can be granted.
func Fits(scopes []string) bool {
	return len(scopes) <= maxDemanded && len(strings.Join(scopes, " ")) <= maxDemandedBytes
}
