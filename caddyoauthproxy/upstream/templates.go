package upstream

import (
	"slices"
)

// template is what is known about a type of provider. Templates are data: code that
// differs by provider is named here and stands where it is used.
type template struct {
	name  string
	alias string

	// needs and takes are the fields of Config that must and may be written.
	needs []string
	takes []string

	// issuer is the issuer URL, with {field} for fields of Config.
	issuer string

	// oidc says that endpoints come from discovery and the user from an ID token. Without it the
	// endpoints below, or those of the Config, are used, and the user comes from userinfo.
	oidc bool

	// mcp says that the provider is whoever protects an MCP server, found from there.
	mcp bool

	// domain is the default of Config.Domain, for {domain}.
	domain string

	// The endpoints of a provider without discovery, where they are always the same.
	authorizationURL string
	tokenURL         string
	userinfoURL      string
	revocationURL    string

	// userinfoQuery is sent to userinfoURL as GraphQL. userPath leads to the user in the userinfo answer, or, where
	// there is no userinfoURL, in the token answer: names of members, apart by dots.
	userinfoQuery string
	userPath      string

	// jsonRequests says that the token endpoint wants JSON instead of a form.
	jsonRequests bool

	// scopeSeparator stands between scopes. Default: a space (RFC 6749 §3.3).
	scopeSeparator string

	// scopes are always asked for.
	scopes []string

	// params go with every authorization request, and refreshParams with those that a refresh token is to come of.
	params        map[string]string
	refreshParams map[string]string

	// authMethod is the default of Config.AuthMethod. Empty: what discovery says, else AuthBasic.
	authMethod string

	// The members of the userinfo answer or ID token with the user's id, login name, e-mail address, groups and organisation. Several
	// apart by spaces are an id together. Default: sub, preferred_username, email, groups, none.
	subject string
	login   string
	email   string
	groups  string
	org     string

	// noGroups says that there are none to be told.
	noGroups bool

	// uniqueLogins says that no two people have one login name at a time, whatever its case, and that it is not any text that a user
	// likes: it names a user as long as they keep it.
	uniqueLogins bool

	// entra says that the issuer holds the user's tenant, that the user is identified by
	// oid, and that xms_edov vouches for the e-mail address.
	entra bool

	// note is what operators should know before the first login.
	note string

	// tokens is, for operators, how long access tokens live there and what becomes of a refresh token that is used, unless the provider's
	// settings say otherwise. What the provider's answers say is what the gateway goes by.
	tokens string

	// recommended are the scopes to begin with where the MCP server does not say which it needs: the least with which most can be read.
	recommended []string

	// githubToken and githubGrant are the URLs of GitHub's own ways to revoke one token, and the user's whole authorization, with {client_id}.
	githubToken string
	githubGrant string
}

var (
	// offlineScopes are for providers that give a refresh token for offline_access (OpenID Connect Core §11).
	offlineScopes = []string{"openid", "profile", "email", "offline_access"}
	loginScopes   = []string{"openid", "profile", "email"}
)

var templates = []template{
	{ //nolint:gosec // addresses, no credentials
		// https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps
		// https://docs.github.com/en/apps/github-authentication-discovery-endpoints (the issuer)
		// https://docs.github.com/en/rest/users/users#get-the-authenticated-user
		// https://docs.github.com/en/rest/apps/oauth-applications#delete-an-app-token
		// https://docs.github.com/en/rest/apps/oauth-applications#delete-an-app-authorization
		// https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens (GitHub Apps)
		name:             "github",
		noGroups:         true,
		issuer:           "https://github.com/login/oauth",
		authorizationURL: "https://github.com/login/oauth/authorize",
		tokenURL:         "https://github.com/login/oauth/access_token",
		userinfoURL:      "https://api.github.com/user",
		authMethod:       AuthPost,
		subject:          "id",
		login:            "login",
		uniqueLogins:     true,
		githubToken:      "https://api.github.com/applications/{client_id}/token",
		githubGrant:      "https://api.github.com/applications/{client_id}/grant",
		note:             "GitHub keeps ten tokens per user and OAuth App, and does not say whether an e-mail address is verified: use allow user or allow login",
		tokens:           "OAuth Apps: do not end, no refresh token; GitHub Apps: 8 hours, refresh tokens work once and for 6 months",
		recommended:      []string{"read:user", "repo"},
	},
	{ //nolint:gosec // addresses and words, no credentials
		// https://developers.google.com/identity/openid-connect/openid-connect
		// https://developers.google.com/identity/protocols/oauth2/web-server#offline
		// Google knows no offline_access, and gives a refresh token with every login only when it asks the user.
		// https://developers.google.com/identity/protocols/oauth2#expiration (tokens)
		name:          "google",
		noGroups:      true,
		issuer:        "https://accounts.google.com",
		oidc:          true,
		scopes:        loginScopes,
		refreshParams: map[string]string{"access_type": "offline", "prompt": "consent"},
		authMethod:    AuthPost,
		org:           "hd",
		note:          "while the consent screen is in Testing, Google ends refresh tokens after seven days",
		tokens:        "1 hour; the refresh token stays the same, and ends after 6 months without use",
	},
	{
		// https://learn.microsoft.com/en-us/entra/identity-platform/v2-protocols-oidc
		// https://learn.microsoft.com/en-us/entra/identity-platform/id-token-claims-reference
		// https://learn.microsoft.com/en-us/entra/identity-platform/optional-claims-reference (xms_edov)
		// https://learn.microsoft.com/en-us/entra/identity-platform/refresh-tokens
		name:        "microsoft",
		alias:       "azure_ad",
		needs:       []string{"tenant"},
		issuer:      "https://login.microsoftonline.com/{tenant}/v2.0",
		oidc:        true,
		scopes:      offlineScopes,
		authMethod:  AuthPost,
		subject:     "oid",
		org:         "tid",
		entra:       true,
		tokens:      "60 to 90 minutes; refresh tokens are replaced at each use, and live for 90 days",
		recommended: []string{"https://graph.microsoft.com/User.Read"},
	},
	{ //nolint:gosec // addresses and words, no credentials
		// https://developer.okta.com/docs/concepts/auth-servers/
		// https://developer.okta.com/docs/guides/refresh-tokens/main/
		name:       "okta",
		needs:      []string{"domain"},
		takes:      []string{"authorization_server"},
		issuer:     "https://{domain}",
		oidc:       true,
		scopes:     offlineScopes,
		authMethod: AuthBasic,
		note:       "access tokens of the organisation's own server are for Okta's APIs only; for others set authorization_server",
		tokens:     "1 hour; the refresh token stays the same, or works once, as the application is set",
	},
	{
		// https://docs.gitlab.com/api/oauth2/ (tokens live two hours, and every refresh token is used once)
		// https://docs.gitlab.com/integration/openid_connect_provider/ (claims, groups_direct)
		// https://docs.gitlab.com/user/profile/#change-your-username
		name:         "gitlab",
		takes:        []string{"domain"},
		domain:       "gitlab.com",
		issuer:       "https://{domain}",
		oidc:         true,
		scopes:       loginScopes,
		authMethod:   AuthPost,
		groups:       "groups_direct",
		uniqueLogins: true,
		tokens:       "2 hours; refresh tokens work once",
		recommended:  []string{"read_api"},
	},
	{ //nolint:gosec // addresses and words, no credentials
		// https://auth0.com/docs/get-started/applications/configure-applications-with-oidc-discovery (the issuer ends in a slash)
		// https://auth0.com/docs/secure/tokens/refresh-tokens/get-refresh-tokens
		// https://auth0.com/docs/secure/tokens/access-tokens/get-access-tokens (audience)
		// https://auth0.com/docs/secure/tokens/refresh-tokens/refresh-token-rotation
		name:       "auth0",
		needs:      []string{"domain"},
		takes:      []string{"audience"},
		issuer:     "https://{domain}/",
		oidc:       true,
		scopes:     offlineScopes,
		authMethod: AuthPost,
		org:        "org_id",
		tokens:     "24 hours; the refresh token stays the same, or works once, as the application is set",
	},
	{
		// https://www.keycloak.org/securing-apps/oidc-layers
		// https://www.keycloak.org/docs/latest/server_admin/#_offline-access
		// https://www.keycloak.org/docs/latest/server_admin/#_timeouts
		name:   "keycloak",
		needs:  []string{"issuer"},
		issuer: "{issuer}",
		oidc:   true,
		scopes: offlineScopes,
		tokens: "5 minutes; the refresh token stays usable, or works once, as the realm is set",
	},
	{ //nolint:gosec // addresses, no credentials
		// https://developer.atlassian.com/cloud/jira/platform/oauth-2-3lo-apps/
		// https://developer.atlassian.com/cloud/oauth/getting-started/refresh-tokens/ (each is used once)
		// https://developer.atlassian.com/cloud/jira/platform/scopes-for-oauth-2-3LO-and-forge-apps/ (read:me)
		name:             "atlassian",
		noGroups:         true,
		issuer:           "https://auth.atlassian.com",
		authorizationURL: "https://auth.atlassian.com/authorize",
		tokenURL:         "https://auth.atlassian.com/oauth/token",
		userinfoURL:      "https://api.atlassian.com/me",
		scopes:           []string{"read:me", "offline_access"},
		params:           map[string]string{"audience": "api.atlassian.com", "prompt": "consent"},
		authMethod:       AuthPost,
		subject:          "account_id",
		tokens:           "1 hour; refresh tokens work once, and end after 90 days without use",
		recommended:      []string{"read:jira-work"},
	},
	{ //nolint:gosec // addresses, no credentials
		// https://docs.slack.dev/authentication/installing-with-oauth
		// https://docs.slack.dev/authentication/using-token-rotation
		// https://docs.slack.dev/reference/methods/auth.test
		name:             "slack",
		noGroups:         true,
		issuer:           "https://slack.com",
		authorizationURL: "https://slack.com/oauth/v2_user/authorize",
		tokenURL:         "https://slack.com/api/oauth.v2.user.access",
		userinfoURL:      "https://slack.com/api/auth.test",
		authMethod:       AuthPost,
		scopeSeparator:   ",",
		subject:          "team_id user_id",
		login:            "user",
		org:              "team_id",
		note:             "without token rotation, switched on in the app's settings, Slack gives no refresh token",
		tokens:           "without token rotation: do not end, no refresh token; with it: 12 hours, refresh tokens work once",
		recommended:      []string{"users:read", "channels:read", "channels:history"},
	},
	{ //nolint:gosec // addresses, no credentials
		// https://linear.app/developers/oauth-2-0-authentication (comma separated scopes; tokens of a day, refresh tokens that rotate)
		// https://linear.app/developers/graphql
		name:             "linear",
		noGroups:         true,
		issuer:           "https://linear.app",
		authorizationURL: "https://linear.app/oauth/authorize",
		tokenURL:         "https://api.linear.app/oauth/token",
		revocationURL:    "https://api.linear.app/oauth/revoke",
		userinfoURL:      "https://api.linear.app/graphql",
		userinfoQuery:    "{ viewer { id name displayName email organization { urlKey } } }",
		userPath:         "data.viewer",
		scopes:           []string{"read"},
		scopeSeparator:   ",",
		authMethod:       AuthPost,
		subject:          "id",
		login:            "displayName",
		org:              "organization.urlKey",
		tokens:           "24 hours; refresh tokens are replaced at each use",
	},
	{ //nolint:gosec // addresses, no credentials
		// https://developers.notion.com/docs/authorization
		// https://developers.notion.com/reference/create-a-token (JSON; the user is in the answer)
		// https://developers.notion.com/reference/revoke-token
		// https://developers.notion.com/reference/refresh-a-token
		name:             "notion",
		noGroups:         true,
		issuer:           "https://api.notion.com",
		authorizationURL: "https://api.notion.com/v1/oauth/authorize",
		tokenURL:         "https://api.notion.com/v1/oauth/token",
		revocationURL:    "https://api.notion.com/v1/oauth/revoke",
		userPath:         "owner.user",
		params:           map[string]string{"owner": "user"},
		jsonRequests:     true,
		authMethod:       AuthBasic,
		subject:          "id",
		email:            "person.email",
		tokens:           "refresh tokens are replaced at each use",
	},
	{
		// https://openid.net/specs/openid-connect-discovery-1_0.html
		name:   "oidc",
		needs:  []string{"issuer"},
		takes:  []string{"revocation_url"},
		issuer: "{issuer}",
		oidc:   true,
		scopes: offlineScopes,
	},
	{
		// https://modelcontextprotocol.io/specification/2026-07-28/basic/authorization
		name:  "mcp",
		needs: []string{"server"},
		takes: []string{"issuer", "revocation_url"},
		mcp:   true,
	},
	{
		// https://www.rfc-editor.org/rfc/rfc6749
		name:       "oauth2",
		alias:      "generic",
		needs:      []string{"authorization_url", "token_url", "userinfo_url"},
		takes:      []string{"issuer", "subject_field", "revocation_url"},
		issuer:     "{issuer}",
		authMethod: AuthBasic,
	},
}

// Types returns the words that Config.Type knows, aliases included, in order.
func Types() []string {
	var names []string
	for _, t := range templates {
		names = append(names, t.name)
		if t.alias != "" {
			names = append(names, t.alias)
		}
	}
	slices.Sort(names)
	return names
}

// KnownType reports whether name is one of Types.
func KnownType(name string) bool { return templateFor(name) != nil }

func templateFor(name string) *template {
	for i, t := range templates {
		if name != "" && (name == t.name || name == t.alias) {
			return &templates[i]
		}
	}
	return nil
}
