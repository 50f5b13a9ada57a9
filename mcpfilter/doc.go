// Package mcpfilter puts the gateway in front of MCP servers.
//
// It has four Caddy modules: the handler [Filter] authenticates a request, attributes it to a user, judges it by the proxy's [Policy], and
// exchanges the gateway token for the user's upstream token; the request matcher [Matcher] tells requests apart by what they ask for; the transport
// [Transport] carries that token to the MCP server where no log sees it, and tries
// once more when the server refuses it; and the directive mcp_proxy puts the two and
// Caddy's reverse_proxy together.
//
// What the filter must know about users and tokens it asks of a [Gateway], which the
// oauth_proxy app provides.
package mcpfilter
