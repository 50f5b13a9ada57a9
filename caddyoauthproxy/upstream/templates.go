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

	// The endpoints of a provider without discovery, where they are always the same.
	authorizationURL string
	tokenURL         string
	userinfoURL      string

	// scopes are always asked for.
	scopes []string

	// params go with every authorization request.
	params map[string]string

	// authMethod is the default of Config.AuthMethod. Empty: what discovery says, else AuthBasic.
	authMethod string

	// The members of the userinfo answer or ID token with the user's id and login name. Default: sub, preferred_username.
	subject string
	login   string

	// entra says that the issuer holds the user's tenant, that the user is identified by
	// oid, and that xms_edov vouches for the e-mail address.
	entra bool

	// githubToken is the URL of GitHub's own way to revoke one token, with {client_id}.
	githubToken string
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
		name:             "github",
		issuer:           "https://github.com/login/oauth",
		authorizationURL: "https://github.com/login/oauth/authorize",
		tokenURL:         "https://github.com/login/oauth/access_token",
		userinfoURL:      "https://api.github.com/user",
		authMethod:       AuthPost,
		subject:          "id",
		login:            "login",
		githubToken:      "https://api.github.com/applications/{client_id}/token",
	},
	{
		// https://developers.google.com/identity/openid-connect/openid-connect
		// https://developers.google.com/identity/protocols/oauth2/web-server#offline
		// Google knows no offline_access, and gives a refresh token with every login only when it asks the user.
		name:       "google",
		issuer:     "https://accounts.google.com",
		oidc:       true,
		scopes:     loginScopes,
		params:     map[string]string{"access_type": "offline", "prompt": "consent"},
		authMethod: AuthPost,
	},
	{
		// https://learn.microsoft.com/en-us/entra/identity-platform/v2-protocols-oidc
		// https://learn.microsoft.com/en-us/entra/identity-platform/id-token-claims-reference
		// https://learn.microsoft.com/en-us/entra/identity-platform/optional-claims-reference (xms_edov)
		name:       "microsoft",
		alias:      "azure_ad",
		needs:      []string{"tenant"},
		issuer:     "https://login.microsoftonline.com/{tenant}/v2.0",
		oidc:       true,
		scopes:     offlineScopes,
		authMethod: AuthPost,
		subject:    "oid",
		entra:      true,
	},
	{
		// https://developer.okta.com/docs/concepts/auth-servers/
		// https://developer.okta.com/docs/guides/refresh-tokens/main/
		name:       "okta",
		needs:      []string{"domain"},
		takes:      []string{"authorization_server"},
		issuer:     "https://{domain}",
		oidc:       true,
		scopes:     offlineScopes,
		authMethod: AuthBasic,
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
