// Package mcpfilter puts the gateway in front of MCP servers.
//
// It has three Caddy modules: the handler [Filter] authenticates a request, attributes it to a user and
// exchanges the gateway token for the user's upstream token; the transport
// [Transport] carries that token to the MCP server where no log sees it, and tries
// once more when the server refuses it; and the directive mcp_proxy puts the two and
// Caddy's reverse_proxy together.
//
// What the filter must know about users and tokens it asks of a [Gateway], which the
// oauth_proxy app provides.
package mcpfilter
