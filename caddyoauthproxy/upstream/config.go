package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The client authentication methods at the token endpoint (RFC 7591 §2).
const (
	AuthBasic = "client_secret_basic"
	AuthPost  = "client_secret_post"
	AuthNone  = "none"
)

// Defaults of a Config.
const (
	DefaultTimeout = 30 * time.Second
	DefaultRetries = 3
)

// Config is one provider as the operator wrote it, secrets resolved. Which fields
// a type needs and takes is in the table of templates; all others must be empty.
type Config struct {
	// Type is the template: one of Types.
	Type string

	// ClientID and ClientSecret are what the provider gave the gateway. The secret is
	// required unless AuthMethod is AuthNone.
	ClientID     string
	ClientSecret string

	// Issuer is the provider's issuer URL.
	Issuer string

	// Server is the URL of the MCP server whose authorization server is the provider.
	Server string

	// PrivateNetwork lets the MCP server, and the addresses that it names, lie in private networks.
	PrivateNetwork bool

	// NoResource leaves the resource parameter (RFC 8707) out of requests to that authorization server.
	NoResource bool

	// RedirectURI is the gateway's callback, ClientName what it calls itself, and ClientMetadataURL where it publishes the document that describes
	// it as a client, empty where it cannot. They are for registration.
	RedirectURI       string
	ClientName        string
	ClientMetadataURL string

	// Domain is the organisation's host name at the provider.
	Domain string

	// AuthorizationServer is the id of a custom authorization server.
	AuthorizationServer string

	// Audience is the API that access tokens are for.
	Audience string

	// Tenant is the directory id, or organizations or common.
	Tenant string

	// AuthorizationURL, TokenURL and UserinfoURL are the endpoints of a provider without discovery.
	AuthorizationURL string
	TokenURL         string
	UserinfoURL      string

	// SubjectField is the member of the userinfo answer that identifies the user for ever. Default: sub.
	SubjectField string

	// RevocationURL is the RFC 7009 endpoint. Default: discovered or known, where there is one.
	RevocationURL string

	// Scopes are asked for beside those that the template needs for login and refresh.
	Scopes []string

	// AuthMethod is AuthBasic, AuthPost or AuthNone. Default: the template's.
	AuthMethod string

	// AuthorizeParams are further parameters of the authorization request. They replace the
	// template's, and may not replace those of the protocol.
	AuthorizeParams map[string]string

	// TokenParams are further parameters of every token request. They may not replace those of the protocol.
	TokenParams map[string]string

	// Unstored keeps tokens in memory alone: who restarts the gateway logs all users out.
	Unstored bool

	// NoRefresh asks for no refresh tokens, and uses none: users log in again when their token ends.
	NoRefresh bool

	// RevokeGrant has a revocation delete the user's whole authorization of the gateway when the account is the user's last at the provider.
	RevokeGrant bool

	// Timeout bounds each request to the provider. Default: DefaultTimeout.
	Timeout time.Duration

	// Retries is how often a refresh that certainly was not processed is repeated.
	// Zero means DefaultRetries, negative none.
	Retries int

	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// field returns the value of a field that templates name.
func (c *Config) field(name string) string {
	switch name {
	case "issuer":
		return c.Issuer
	case "server":
		return c.Server
	case "domain":
		return c.Domain
	case "authorization_server":
		return c.AuthorizationServer
	case "tenant":
		return c.Tenant
	case "audience":
		return c.Audience
	case "authorization_url":
		return c.AuthorizationURL
	case "token_url":
		return c.TokenURL
	case "userinfo_url":
		return c.UserinfoURL
	case "subject_field":
		return c.SubjectField
	case "revocation_url":
		return c.RevocationURL
	}
	return ""
}

// templateFields are the fields that some templates take and others do not, and what to write.
var templateFields = []struct{ name, example string }{
	{"issuer", "the issuer URL, such as https://login.example.com"},
	{"server", "the URL of the MCP server, such as https://mcp.example.com/mcp"},
	{"domain", "the host name of your organisation, such as acme.okta.com"},
	{"authorization_server", "the id of the authorization server, such as default"},
	{"tenant", "the directory (tenant) id, such as 00000000-0000-0000-0000-000000000000, or organizations"},
	{"audience", "the identifier of the API that tokens are for, such as https://api.example.com"},
	{"authorization_url", "the URL of the authorization endpoint"},
	{"token_url", "the URL of the token endpoint"},
	{"userinfo_url", "the URL that tells who the user is"},
	{"subject_field", "the member of the userinfo answer that identifies the user"},
	{"revocation_url", "the URL of the revocation endpoint"},
}

// protocolParams are the authorization request's own parameters, which AuthorizeParams may not set.
var protocolParams = []string{
	"client_id", "client_secret", "redirect_uri", "response_type", "state", "nonce", "scope",
	"code_challenge", "code_challenge_method", "request", "request_uri",
}

// check finds what is wrong with a configuration, naming the field and the fix.
func (c *Config) check(t *template) error {
	if c.ClientID == "" && (!t.mcp || c.ClientSecret != "") {
		return errors.New("client_id is missing: write the client id that the provider gave you")
	}
	for _, f := range templateFields {
		switch given := c.field(f.name) != ""; {
		case !given && slices.Contains(t.needs, f.name):
			return fmt.Errorf("%s is missing: write %s", f.name, f.example)
		case given && !slices.Contains(t.needs, f.name) && !slices.Contains(t.takes, f.name):
			return fmt.Errorf("%s does not apply to type %s: remove it, or use type oidc or oauth2", f.name, t.name)
		}
	}
	for _, name := range []string{"issuer", "server", "authorization_url", "token_url", "userinfo_url", "revocation_url"} {
		if v := c.field(name); v != "" {
			if err := checkURL(v); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if u, err := url.Parse(c.Issuer); err != nil || u.RawQuery != "" || u.ForceQuery {
		return errors.New("issuer: must have no query")
	}
	if c.Domain != "" && !isHostName(c.Domain) {
		return errors.New("domain: write the host name alone, such as acme.okta.com, without https:// or a path")
	}
	if s := c.AuthorizationServer; s != "" && strings.Trim(s, idChars) != "" {
		return errors.New("authorization_server: write the id alone, such as default or aus1abc2def")
	}
	if c.Tenant != "" && !isTenant(c.Tenant) {
		return errors.New("tenant: write the directory (tenant) id, which looks like 00000000-0000-0000-0000-000000000000, or organizations, or common")
	}
	if c.RevokeGrant && t.githubGrant == "" {
		return fmt.Errorf("revoke grant does not apply to type %s: remove it", t.name)
	}
	if c.PrivateNetwork && !t.mcp {
		return fmt.Errorf("private_network does not apply to type %s: remove it", t.name)
	}
	if c.NoResource && !t.mcp {
		return fmt.Errorf("resource off does not apply to type %s: remove it", t.name)
	}
	return c.checkClient(t)
}

// checkClient is check for what concerns the gateway as a client.
func (c *Config) checkClient(t *template) error {
	switch c.AuthMethod {
	case AuthNone:
		if c.ClientSecret != "" {
			return errors.New("client_secret is set, but token_endpoint_auth_method is none: remove one of them")
		}
	case "", AuthBasic, AuthPost:
		if c.ClientSecret == "" && !(t.mcp && c.ClientID == "") {
			return errors.New("client_secret is missing: write the secret that the provider gave you, or token_endpoint_auth_method none for a public client")
		}
	default:
		return fmt.Errorf("token_endpoint_auth_method %q is unknown: write %s, %s or %s", c.AuthMethod, AuthBasic, AuthPost, AuthNone)
	}
	for _, s := range c.Scopes {
		if !ValidScope(s) {
			return fmt.Errorf("scopes: %q is not a scope: write them apart, without quotes or backslashes", s)
		}
	}
	for name := range c.AuthorizeParams {
		if name == "" || slices.Contains(protocolParams, name) {
			return fmt.Errorf("authorize_param %q belongs to the protocol and is set by the gateway: remove it", name)
		}
	}
	for name := range c.TokenParams {
		if name == "" || slices.Contains(requestParams, name) || slices.Contains([]string{"code_verifier", "redirect_uri"}, name) {
			return fmt.Errorf("token_param %q belongs to the protocol and is set by the gateway: remove it", name)
		}
	}
	if c.Timeout < 0 {
		return errors.New("timeout is negative: write a duration such as 30s")
	}
	return nil
}

const idChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// ValidScope reports whether s is one scope-token (RFC 6749 §3.3).
func ValidScope(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' })
}

// isHostName reports whether s is a host name with an optional port.
func isHostName(s string) bool {
	u, err := url.Parse("https://" + s)
	return err == nil && u.Host == s && u.Hostname() != "" && strings.Trim(u.Hostname(), idChars+".") == ""
}

// isTenant reports whether s is a directory id, or a word for many directories.
func isTenant(s string) bool { return s == "organizations" || s == "common" || isGUID(s) }

func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !strings.ContainsRune("0123456789abcdefABCDEF", rune(c)) {
				return false
			}
		}
	}
	return true
}

// checkURL insists on an absolute https URL; http is for this machine only.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return fmt.Errorf("%q is not a URL: write all of it, beginning with https://", text)
	case u.User != nil || strings.Contains(text, "#"):
		return errors.New("must have no user name, password or fragment")
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	default:
		return fmt.Errorf("%q must be https: secrets and tokens go there (http is accepted for localhost only)", text)
	}
}

// checkEndpoint judges an endpoint that a discovery document of the given issuer names. The document must not
// send the gateway's secrets where the operator cannot have meant: in clear, or to an address of
// this machine or network. An issuer on this machine may name others on it.
func checkEndpoint(issuer, endpoint string) error {
	if err := checkURL(endpoint); err != nil {
		return err
	}
	i, err := url.Parse(issuer)
	if err != nil {
		return err
	}
	e, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	host := e.Hostname()
	switch {
	case host == i.Hostname(), isLoopback(host) && isLoopback(i.Hostname()):
		return nil
	case isLoopback(host), net.ParseIP(host) != nil:
		return fmt.Errorf("%q is an address of its own and not on the issuer's host", endpoint)
	default:
		return nil
	}
}

// isLoopback reports whether a host is this machine.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
