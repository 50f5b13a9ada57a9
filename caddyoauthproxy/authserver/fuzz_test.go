package authserver

import (
	"encoding/base64"
	"strings"
	"testing"
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
		id, _, ok := basicCredentials(header)
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
	k := &keyring{}
	k.current.Store(&keySet{})
	f.Fuzz(func(t *testing.T, token string) {
		if claims, err := k.verify(token); err == nil {
			t.Fatalf("%q was accepted without any key: %v", token, claims)
		}
	})
}
