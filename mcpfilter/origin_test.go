package mcpfilter_test

import (
	"net/http"
	"testing"
)

func TestForeignOriginsAreRefused(t *testing.T) {
	t.Parallel()
	g, up := newGateway(t), new(recorder)
	g.origins = []string{"https://Auth.test:443", "https://chat.example.com"}
	s := startCaddy(t, g, resource, viaProxy, up)
	for origin, allowed := range map[string]bool{
		"":                                true, // no browser
		"https://gw.test":                 true,
		"HTTPS://GW.TEST":                 true,
		"https://auth.test":               true,
		"https://chat.example.com":        true,
		"http://localhost:6274":           true,
		"http://127.0.0.1:1":              true,
		"https://[::1]:8443":              true,
		"https://evil.test":               false,
		"http://gw.test":                  false,
		"https://gw.test:444":             false,
		"https://gw.test.evil.test":       false,
		"https://chat.example.com.evil":   false,
		"https://evil.test/localhost":     false,
		"http://localhost.evil.test":      false,
		"http://localhost@evil.test":      false,
		"http://127.0.0.1.evil.test":      false,
		"ftp://localhost":                 false,
		"null":                            false,
		"*":                               false,
		"https://chat.example.com/":       false,
		"https://gw.test https://gw.test": false,
	} {
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete, http.MethodOptions} {
			header := map[string]string{"Origin": origin}
			want := http.StatusOK
			if method == http.MethodOptions {
				header["Access-Control-Request-Method"], header["Authorization"] = "POST", ""
				want = http.StatusNoContent
			}
			if !allowed {
				want = http.StatusForbidden
			}
			before := up.count()
			res := s.request(t, method, "/jira/mcp", header, "")
			if res.StatusCode != want {
				t.Errorf("%s with Origin %q: %d, want %d", method, origin, res.StatusCode, want)
			}
			if !allowed && (up.count() != before || res.Header.Get("Access-Control-Allow-Origin") != "") {
				t.Errorf("%s with Origin %q: the server saw it, or a script may read the answer", method, origin)
			}
		}
	}
	req := s.newRequest(t, http.MethodPost, "/jira/mcp", nil, "")
	req.Header["Origin"] = []string{"https://gw.test", "https://evil.test"}
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	wantStatus(t, res, http.StatusForbidden)
}

func TestOriginStarAllowsAll(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.origins = []string{"*"}
	s := startCaddy(t, g, resource, viaProxy, new(recorder))
	wantStatus(t, s.post(t, "/jira/mcp", map[string]string{"Origin": "null"}), http.StatusOK)
}
