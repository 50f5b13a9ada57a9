// Package authserver is the gateway's OAuth 2.1 authorization server, one file
// per endpoint, in plain net/http.
//
// Chatbots register themselves (RFC 7591), publish a metadata document, or are known by the configuration; they send the user's
// browser to authorize, and get gateway tokens: a JWT access token (RFC 9068) and a rotating
// refresh token. The user says yes on a consent page before anything else happens,
// and then logs in at the proxy's provider; the upstream tokens go into the vault and never
// reach the client.
//
// A [Server] answers these routes below the issuer's path; those marked with a
// star exist twice, gateway-wide and pinned to a proxy as
// /api/v1/oauth-proxy/{proxy}/…:
//
//	GET  /.well-known/oauth-authorization-server   metadata.go    RFC 8414
//	GET  /.well-known/openid-configuration         metadata.go    the same document
//	GET  /.well-known/oauth-protected-resource     metadata.go    RFC 9728
//	GET  /.well-known/jwks.json                    signingkeys.go RFC 7517
//	POST /api/v1/oauth-proxy/register            * register.go    RFC 7591
//	…    /api/v1/oauth/clients/{client_id}         clientconfiguration.go RFC 7592
//	GET  /api/v1/oauth-proxy/authorize           * authorize.go   RFC 6749, 7636, 8707, 9207
//	POST /api/v1/oauth-proxy/consent               consent.go
//	GET  /api/v1/oauth/callback, /oauth/callback   callback.go
//	POST /api/v1/oauth-proxy/token               * token.go       RFC 6749, 7636, 8707
//	POST /api/v1/oauth-proxy/revoke              * revoke.go      RFC 7009
//	POST /api/v1/oauth-proxy/introspect          * introspect.go  RFC 7662
//	POST /api/v1/oauth/authorize/{provider}        sessionlogin.go
//	POST /api/v1/oauth/validate, refresh, logout   sessioncare.go
//	GET  /oauth/authorize/{proxy}                  connect.go
//	GET  /oauth/                                   home.go
package authserver
