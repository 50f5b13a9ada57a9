package authserver

import (
	"slices"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Policy says which users of a provider may use a proxy. A user comes in when any
// list names them; with all lists empty every user of the provider may.
type Policy struct {
	// EmailDomains are domains of verified e-mail addresses, such as example.com. Subdomains do not count.
	EmailDomains []string `json:"email_domains,omitempty"`

	// Emails are verified e-mail addresses.
	Emails []string `json:"emails,omitempty"`

	// Users are the provider's subject identifiers. Nothing else names a user for ever.
	Users []string `json:"users,omitempty"`

	// Logins are login names, of GitHub and GitLab alone: those of other providers repeat, or are what users say. Case does not
	// count. A name that its owner gives up is the next one's.
	Logins []string `json:"logins,omitempty"`

	// Groups are groups at the provider, of which the user must be in one. Where the provider tells groups as of the login.
	Groups []string `json:"groups,omitempty"`

	// Orgs are organisations at the provider: Google's hosted domain, Entra's tenant id, Auth0's organisation, Slack's team id, Linear's
	// workspace.
	Orgs []string `json:"orgs,omitempty"`
}

// Everybody reports whether every user of the provider may come in.
func (p Policy) Everybody() bool {
	return len(p.EmailDomains)+len(p.Emails)+len(p.Users)+len(p.Logins)+len(p.Groups)+len(p.Orgs) == 0
}

// Permits reports whether the user may come in. An e-mail address that the
// provider does not call verified, or that is not one address, matches nothing.
func (p Policy) Permits(u tokenstore.User) bool {
	if p.Everybody() {
		return true
	}
	if u.Subject != "" && slices.Contains(p.Users, u.Subject) || u.Login != "" && slices.ContainsFunc(p.Logins, same(strings.ToLower(u.Login))) {
		return true
	}
	if u.Org != "" && slices.Contains(p.Orgs, u.Org) || slices.ContainsFunc(u.Groups, func(g string) bool { return g != "" && slices.Contains(p.Groups, g) }) {
		return true
	}
	email := strings.ToLower(u.Email)
	local, domain, ok := strings.Cut(email, "@")
	if !ok || local == "" || domain == "" || strings.Contains(domain, "@") || !u.EmailVerified {
		return false
	}
	return slices.ContainsFunc(p.EmailDomains, same(domain)) || slices.ContainsFunc(p.Emails, same(email))
}

// same compares entries with what is in small letters.
func same(want string) func(string) bool {
	return func(have string) bool { return strings.ToLower(have) == want }
}
