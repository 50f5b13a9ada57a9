// Package operator is what those who run a gateway use, the admin JSON API, and the pages of people who are signed in. It is plain net/http; Caddy's admin endpoint serves
// it below /oauth_proxy/, and the site below /admin/oauth/ for admins who have signed in.
//
// The document openapi.json describes every route, and is served at /openapi.json. Nothing that the API answers, but for a new API key, holds a
// token, a secret, or a hash of one.
package operator
