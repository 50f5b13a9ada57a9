package operator

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// After something was done, the browser is sent on to a page that says so. What that is stands in the address, with a proof that it was this sign-in to
// which it was said: no link of somebody else's makes a page say that something was done.

// notice is what a page is told to say.
func notice(signIn *authserver.SignIn, code string) string {
	mac := hmac.New(sha256.New, []byte(signIn.CSRF))
	mac.Write([]byte("notice " + code))
	return code + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// noticed is what a page was told to say; empty where nobody did who may.
func noticed(signIn *authserver.SignIn, text string) string {
	code, _, _ := strings.Cut(text, ".")
	if signIn.CSRF == "" || !hmac.Equal([]byte(notice(signIn, code)), []byte(text)) {
		return ""
	}
	return code
}
