// Package caddyoauthproxy holds the Caddy modules that an operator configures: the
// oauth_proxy app and its global option, the oauth_proxy directive, and the
// vaults.
//
// Behind them stand packages that know nothing of Caddy: authserver answers the OAuth
// endpoints, upstream talks to the providers, console draws the pages, and
// tokenstore keeps everything sealed. The MCP side is package mcpfilter.
//
//	{
//		oauth_proxy {
//			issuer https://gateway.example.com
//			provider okta {
//				domain        acme.okta.com
//				client_id     {env.OKTA_CLIENT_ID}
//				client_secret {env.OKTA_CLIENT_SECRET}
//			}
//			proxy jira {
//				resource https://gateway.example.com/jira/mcp
//			}
//		}
//	}
//
//	gateway.example.com {
//		oauth_proxy
//		mcp_proxy jira https://jira-mcp.internal/mcp
//	}
package caddyoauthproxy
