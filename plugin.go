// Package caddyoauthproxyplugin registers every module of the gateway with Caddy.
//
// It exists so that the repository itself can be named to xcaddy:
//
//	xcaddy build --with github.com/caddy-oauth-proxy/caddy-oauth-proxy
package caddyoauthproxyplugin

import (
	_ "github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy"
	_ "github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)
