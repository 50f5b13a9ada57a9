// Package upstream is the gateway as a client of others: it logs users in at
// providers, and keeps the tokens that providers give it fresh.
//
// A [Provider] is one identity provider or authorization server, described by a
// [Config] and a template. It builds authorization requests (RFC 6749 §4.1.1 with
// PKCE, RFC 7636), redeems codes, finds out who logged in (OpenID Connect or a
// userinfo endpoint), refreshes and revokes.
//
// [Accounts] stands between the providers and the vault. It hands out the access
// token of an account, refreshes it ahead of time, and sees to it that a refresh
// token is spent once, however many requests and processes ask.
//
// # Errors
//
// What a provider answers is an [*Error] with a [Class], and the class alone decides
// what becomes of an account: only [Rejected] ends it. An error never carries
// anything that a provider wrote except an OAuth error code.
package upstream
