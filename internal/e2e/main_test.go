// Package e2e proves the gateway from outside: a real Caddy from a real Caddyfile as a process of its own, a real OpenID Connect
// provider, a real MCP server, and clients that know nothing of this project.
package e2e

import (
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }
