package authserver

import (
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestT29PolicyTrustsOnlyVerifiedEmail(t *testing.T) {
	t.Parallel()
	corp := Policy{EmailDomains: []string{"Corp.test"}, Emails: []string{"guest@else.test"}, Users: []string{"12345"}, Logins: []string{"Octocat"}}
	for _, c := range []struct {
		name string
		user tokenstore.User
		want bool
	}{
		{"domain", tokenstore.User{Subject: "1", Email: "A@corp.TEST", EmailVerified: true}, true},
		{"not verified", tokenstore.User{Subject: "1", Email: "a@corp.test"}, false},
		{"two at signs", tokenstore.User{Subject: "1", Email: "a@evil.test@corp.test", EmailVerified: true}, false},
		{"subdomain", tokenstore.User{Subject: "1", Email: "a@sub.corp.test", EmailVerified: true}, false},
		{"suffix", tokenstore.User{Subject: "1", Email: "a@notcorp.test", EmailVerified: true}, false},
		{"no local part", tokenstore.User{Subject: "1", Email: "@corp.test", EmailVerified: true}, false},
		{"address", tokenstore.User{Subject: "1", Email: "guest@else.test", EmailVerified: true}, true},
		{"subject", tokenstore.User{Subject: "12345"}, true},
		{"login", tokenstore.User{Subject: "1", Login: "octoCAT"}, true},
		{"subject as a login", tokenstore.User{Subject: "1", Login: "12345"}, false},
		{"login as a subject", tokenstore.User{Subject: "octocat"}, false},
		{"nobody", tokenstore.User{Subject: "1"}, false},
	} {
		if got := corp.Permits(c.user); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if !(Policy{}).Permits(tokenstore.User{Subject: "anybody"}) {
		t.Error("an empty policy must let every user of the provider in")
	}
	if (Policy{Users: []string{""}, Logins: []string{""}}).Permits(tokenstore.User{Subject: "1"}) {
		t.Error("an empty entry must not match a user without login name")
	}
}

func TestPolicyKnowsGroupsAndOrganisations(t *testing.T) {
	t.Parallel()
	policy := Policy{Groups: []string{"eng"}, Orgs: []string{"example.com"}, Users: []string{"u9"}}
	for name, c := range map[string]struct {
		user tokenstore.User
		want bool
	}{
		"in the group":           {tokenstore.User{Subject: "u1", Groups: []string{"ops", "eng"}}, true},
		"in another group":       {tokenstore.User{Subject: "u1", Groups: []string{"engineering"}}, false},
		"in the organisation":    {tokenstore.User{Subject: "u1", Org: "example.com"}, true},
		"in another":             {tokenstore.User{Subject: "u1", Org: "example.com.evil.test"}, false},
		"in none":                {tokenstore.User{Subject: "u1"}, false},
		"by name":                {tokenstore.User{Subject: "u9"}, true},
		"organisation as a mail": {tokenstore.User{Subject: "u1", Email: "a@example.com", EmailVerified: true}, false},
	} {
		if got := policy.Permits(c.user); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if (Policy{Orgs: []string{""}}).Permits(tokenstore.User{Subject: "u1"}) {
		t.Error("an empty organisation matches users without one")
	}
}

// Such as an entry that a template has filled with nothing, and a group that a provider tells without a name.
func TestEntriesWithoutANameNameNobody(t *testing.T) {
	t.Parallel()
	none := []string{""}
	for name, p := range map[string]Policy{
		"email_domains": {EmailDomains: none}, "emails": {Emails: none}, "users": {Users: none}, "logins": {Logins: none}, "groups": {Groups: none}, "orgs": {Orgs: none},
	} {
		for _, u := range []tokenstore.User{{}, {EmailVerified: true, Groups: []string{""}}, {Email: "@", EmailVerified: true, Groups: []string{"", "staff"}}} {
			if p.Permits(u) {
				t.Errorf("%s lets in %+v", name, u)
			}
		}
	}
}
