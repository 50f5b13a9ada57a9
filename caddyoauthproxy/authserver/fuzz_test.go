package authserver

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func FuzzParseRefreshToken(f *testing.F) {
	f.Add(refreshToken{"GRANTID", 7, strings.Repeat("a", 43)}.String())
	f.Add("gwr_")
	f.Add("gwr_AAAAAQ." + strings.Repeat("A", 43))
	f.Fuzz(func(t *testing.T, raw string) {
		token, ok := parseRefreshToken(raw)
		if ok && token.String() != raw {
			t.Fatalf("%q has another spelling: %q", raw, token.String())
		}
	})
}

func FuzzBasicCredentials(f *testing.F) {
	f.Add("Basic " + base64.StdEncoding.EncodeToString([]byte("id:secret")))
	f.Add("basic " + base64.StdEncoding.EncodeToString([]byte("i%5Fd:se%20cret")))
	f.Add("Basic %%%")
	f.Fuzz(func(t *testing.T, header string) {
		id, _, _, ok := basicCredentials(header)
		if ok && id == "" {
			t.Fatalf("%q gave no id", header)
		}
	})
}

func FuzzParseRegistration(f *testing.F) {
	f.Add([]byte(`{"redirect_uris":["https://c.test/cb"],"client_name":"x"}`))
	f.Add([]byte(`{"redirect_uris":["https://c.test/cb"],"redirect_uris":[]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		meta, err := parseRegistration(body)
		if (err == nil) == (meta == nil) {
			t.Fatalf("%q: %v, %v", body, meta, err)
		}
	})
}

func FuzzVerifyAccessToken(f *testing.F) {
	f.Add("eyJhbGciOiJFUzI1NiJ9.e30.AAAA")
	f.Add("..")
	f.Add(strings.Repeat("A", maxAccessToken+1))
	k := &keyring{looked: func(bool) {}}
	none, err := newKeySet(&tokenstore.SigningKeys{})
	if err != nil {
		f.Fatal(err)
	}
	k.current.Store(none)
	f.Fuzz(func(t *testing.T, token string) {
		if claims, err := k.verify(token); err == nil {
			t.Fatalf("%q was accepted without any key: %v", token, claims)
		}
	})
}

func FuzzMetadataDocument(f *testing.F) {
	const id = "https://c.test/client.json"
	f.Add([]byte(`{"client_id":"https://c.test/client.json","client_name":"x","redirect_uris":["https://c.test/cb"]}`))
	f.Add([]byte(`{"client_id":"https://c.test/client.json","client_name":"x","redirect_uris":["https://c.test/cb"],"token_endpoint_auth_method":"private_key_jwt","jwks":{"keys":[]}}`))
	f.Add([]byte(`{"client_id":"https://c.test/client.json","Client_ID":"x"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := parseDocument(id, body)
		if err != nil {
			return
		}
		if c.ID != id || c.Name == "" || len(c.RedirectURIs) == 0 || c.SecretHash != "" || c.AuthMethod != authNone && c.AuthMethod != authPrivateKey {
			t.Fatalf("%q was accepted as %+v", body, c)
		}
	})
}

func FuzzRedirectPattern(f *testing.F) {
	f.Add("https://c.test/cb/*", "https://c.test/cb/1")
	f.Add("http://localhost/**", "http://localhost:1/a/b")
	f.Add("https://c.test/*/x", "https://c.test/%2f/x")
	f.Fuzz(func(t *testing.T, entry, uri string) {
		if ValidAllowedRedirect(entry) != nil || redirectPresets[entry] != nil || validRedirectURI(uri, []string{uri}) != nil || !matchesEntry(entry, uri) {
			return
		}
		a, errA := url.Parse(entry)
		b, errB := url.Parse(uri)
		if errA != nil || errB != nil || a.Scheme != b.Scheme || a.Hostname() != b.Hostname() || a.Port() != b.Port() && !isLoopback(b.Hostname()) || b.User != nil || b.Fragment != "" {
			t.Fatalf("%q allows %q", entry, uri)
		}
	})
}

func FuzzClientKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"x","y":"y"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		keys, err := parseClientKeys(raw)
		if err != nil {
			return
		}
		for _, key := range keys.Keys {
			if !key.IsPublic() {
				t.Fatalf("%q holds a key that is not public", raw)
			}
		}
	})
}

func FuzzAssertionSubject(f *testing.F) {
	f.Add("e30.eyJzdWIiOiJ4In0.AA")
	f.Add("..")
	f.Fuzz(func(_ *testing.T, assertion string) { assertionSubject(assertion) })
}
