package operator

import (
	"crypto/subtle"
	"errors"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
)

// admit lets in an admin who has signed in, at the gateway's own host (a name that was made to point here is another one's), and a write only when
// no other site can have sent it: browsers say in Sec-Fetch-Site or Origin whose it is, and without being asked first they let
// no site but our own set the media type or the header that one of is needed.
func (s *Server) admit(r *http.Request) (*authserver.SignIn, error) {
	if !sameHost(s.options.Issuer, r.Host) {
		return nil, denied(http.StatusForbidden, "access_denied", "this host is not the gateway's own: use "+s.options.Issuer.Host)
	}
	signIn, err := s.options.SignedIn(r)
	switch {
	case err != nil && !errors.Is(err, authserver.ErrNotSignedIn):
		return nil, err
	case err != nil, signIn == nil:
		return nil, denied(http.StatusUnauthorized, "login_required", "sign in at the gateway first, as one of its admins")
	case !signIn.Admin:
		return nil, denied(http.StatusForbidden, "access_denied", "this is for the gateway's admins: its configuration says who they are")
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return signIn, nil
	}
	if err := s.csrf.Check(r); err != nil {
		return nil, denied(http.StatusForbidden, "access_denied", "the request comes from another site")
	}
	shown, there := r.Header["X-Csrf-Token"]
	switch {
	case there && (len(shown) != 1 || signIn.CSRF == "" || subtle.ConstantTimeCompare([]byte(shown[0]), []byte(signIn.CSRF)) != 1):
		return nil, denied(http.StatusForbidden, "access_denied", "X-CSRF-Token is not that of this sign-in: load the page again")
	case !there && !isJSON(r):
		return nil, denied(http.StatusForbidden, "access_denied", "a write needs Content-Type: application/json, or X-CSRF-Token")
	}
	return signIn, nil
}

func isJSON(r *http.Request) bool {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && t == "application/json"
}

// sameHost compares a Host header with that of the issuer, whose default port may be left out.
func sameHost(issuer *url.URL, host string) bool {
	return strings.EqualFold(withPort(issuer.Scheme, issuer.Host), withPort(issuer.Scheme, host))
}

func withPort(scheme, host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return strings.TrimSuffix(host, ":") + map[string]string{"http": ":80", "https": ":443"}[scheme]
}
