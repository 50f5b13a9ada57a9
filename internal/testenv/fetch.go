package testenv

import (
	"io"
	"net/http"
	"net/url"
	"testing"
)

// Fetch sends a request with the browser's cookies, as a script of some page would, and returns what is answered.
func (b *Browser) Fetch(t testing.TB, method, address string, headers map[string]string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(content)
}

// Cookies are those that the browser sends with a request, by name.
func (b *Browser) Cookies(t testing.TB, address string) map[string]string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	cookies := make(map[string]string)
	for _, c := range b.client.Jar.Cookies(u) {
		cookies[c.Name] = c.Value
	}
	return cookies
}
