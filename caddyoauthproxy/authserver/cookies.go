package authserver

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Cookies bind a login to the browser that asked for it. All are host-only
// by their __Host- prefix, so that no neighbouring site can plant them; on a loopback gateway
// without https the prefix is impossible and the plain names are used.
//
//   - browser: set with the consent page; the form token is made from it, so that the answer
//     can only come from the browser that saw the page.
//   - login: one per login, set only after Allow; the callback must bring it back.
//   - user: set when a login ends whose user wants the consent remembered; it says, sealed, who the user is.
const (
	browserCookie     = "oauth_proxy_browser"
	sessionCookie     = "oauth_proxy_user"
	loginCookiePrefix = "oauth_proxy_login_"
	maxLoginCookies   = 8
)

func (s *Server) cookieName(name string) string {
	if s.secure {
		return "__Host-" + name
	}
	return name
}

func (s *Server) setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure except on a loopback gateway without https
		Name:     s.cookieName(name),
		Value:    value,
		Path:     "/",
		MaxAge:   int(life / time.Second),
		Secure:   s.secure,
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
	})
}

func (s *Server) dropCookie(w http.ResponseWriter, name string) {
	s.setCookie(w, name, "", -time.Second)
}

// cookie reads a cookie that must be there exactly once: a second of the same name is somebody's trick.
func (s *Server) cookie(r *http.Request, name string) string {
	found := r.CookiesNamed(s.cookieName(name))
	if len(found) != 1 {
		return ""
	}
	return found[0].Value
}

// browser returns the browser's cookie value, setting a new one where there is none of ours.
func (s *Server) browser(w http.ResponseWriter, r *http.Request) string {
	if v := s.cookie(r, browserCookie); len(v) == 26 && isBase64URL(v) {
		return v
	}
	v := rand.Text()
	s.setCookie(w, browserCookie, v, 24*time.Hour)
	return v
}

// loginCookieName is the cookie of one login. The state's hash is not secret.
func loginCookieName(loginID string) string { return loginCookiePrefix + loginID[:8] }

// setLoginCookie sets the cookie of a login, and drops the oldest others of this browser so that they never
// fill the request header. The value starts with the time it was set.
func (s *Server) setLoginCookie(w http.ResponseWriter, r *http.Request, loginID, value string) {
	own := s.cookieName(loginCookieName(loginID))
	prefix := s.cookieName(loginCookiePrefix)
	var others []*http.Cookie
	for _, c := range r.Cookies() {
		if strings.HasPrefix(c.Name, prefix) && c.Name != own {
			others = append(others, c)
		}
	}
	for len(others) >= maxLoginCookies {
		oldest := 0
		for i, c := range others {
			if cookieTime(c.Value) < cookieTime(others[oldest].Value) {
				oldest = i
			}
		}
		s.dropCookie(w, strings.TrimPrefix(others[oldest].Name, s.cookieName("")))
		others = append(others[:oldest], others[oldest+1:]...)
	}
	stamp := strconv.FormatInt(s.vault.Now().Unix(), 36)
	s.setCookie(w, loginCookieName(loginID), stamp+"."+value, s.life.Login)
}

// loginCookie reads the secret part of a login's cookie.
func (s *Server) loginCookie(r *http.Request, loginID string) string {
	_, value, _ := strings.Cut(s.cookie(r, loginCookieName(loginID)), ".")
	return value
}

func cookieTime(value string) int64 {
	stamp, _, _ := strings.Cut(value, ".")
	t, err := strconv.ParseInt(stamp, 36, 64)
	if err != nil {
		return 0
	}
	return t
}

// setSession tells the browser who its user is, for remembered consents. Every login gives a new value.
func (s *Server) setSession(w http.ResponseWriter, r *http.Request, grantID string) error {
	g, err := s.vault.Grant(r.Context(), grantID)
	if err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	s.setCookie(w, sessionCookie, s.vault.Seal(purposeSession, []byte(g.UserID), s.vault.Now().Add(s.life.RefreshTotal)), s.life.RefreshTotal)
	return nil
}

// sessionUser is the id of the browser's user, "" where it is not known.
func (s *Server) sessionUser(r *http.Request) string {
	user, err := s.vault.OpenSealed(purposeSession, s.cookie(r, sessionCookie))
	if err != nil {
		return ""
	}
	return string(user)
}
