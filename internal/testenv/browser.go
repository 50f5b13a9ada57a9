package testenv

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
)

// Browser is a user at a browser: it keeps cookies, follows redirects, fills in login forms and presses Allow.
// Like a real one, and unlike other Go clients, it says which form answers come from which page.
type Browser struct {
	user   provider.User
	client *http.Client

	// Pages are the pages that it came by, and OnPage, when set, is told of each.
	Pages  []string
	OnPage func(page string)

	// Refuses has the user press Do not allow in place of Allow.
	Refuses bool
}

// NewBrowser returns a browser with no cookies.
func NewBrowser(user provider.User) *Browser {
	jar, _ := cookiejar.New(nil) // never fails
	return &Browser{user: user, client: &http.Client{
		Jar:           jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Through makes the browser's requests go by another way than straight to their addresses.
func (b *Browser) Through(way http.RoundTripper) *Browser {
	b.client.Transport = way
	return b
}

// Login opens an authorization URL and does what a user does until the browser is sent to a place that
// begins with until. It returns that place, unvisited.
func (b *Browser) Login(t testing.TB, authorize, until string) *url.URL {
	t.Helper()
	u, err := b.TryLogin(authorize, until)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TryLogin is Login with an error.
func (b *Browser) TryLogin(authorize, until string) (*url.URL, error) {
	method, target, form := http.MethodGet, authorize, url.Values(nil)
	for range 20 {
		if strings.HasPrefix(target, until) {
			return url.Parse(target)
		}
		resp, page, err := b.request(method, target, form)
		if err != nil {
			return nil, err
		}
		if location := resp.Header.Get("Location"); location != "" {
			next, err := resp.Request.URL.Parse(location)
			if err != nil {
				return nil, err
			}
			method, target, form = http.MethodGet, next.String(), nil
			continue
		}
		b.Pages = append(b.Pages, page)
		if b.OnPage != nil {
			b.OnPage(page)
		}
		action, fields, ok := b.fillForm(page)
		if resp.StatusCode != http.StatusOK || !ok {
			return nil, fmt.Errorf("stuck at %s: %d %s", resp.Request.URL.Path, resp.StatusCode, page)
		}
		next, err := resp.Request.URL.Parse(action)
		if err != nil {
			return nil, err
		}
		method, target, form = http.MethodPost, next.String(), fields
	}
	return nil, fmt.Errorf("still not at %s after 20 pages", until)
}

func (b *Browser) request(method, target string, form url.Values) (*http.Response, string, error) {
	req, err := http.NewRequest(method, target, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, "", err
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		req.Header.Set("Origin", "null") // what browsers send from a page without referrer
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	return resp, string(page), err
}

// fillForm finds the page's first form, with all its fields, and the button pressed that the user chooses, where there is one. Whatever
// their names: where a password is asked for, it is filled in, and the user's name in the field for text before it.
func (b *Browser) fillForm(page string) (action string, fields url.Values, ok bool) {
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		return "", nil, false
	}
	form := first(doc, "form")
	if form == nil {
		return "", nil, false
	}
	fields = make(url.Values)
	var text string
	for n := range form.Descendants() {
		attr := attributes(n)
		switch {
		case n.Type != html.ElementNode:
		case n.Data == "input":
			name := attr["name"]
			if _, checked := attr["checked"]; attr["type"] == "checkbox" && !checked {
				continue
			}
			fields.Set(name, attr["value"])
			switch attr["type"] {
			case "", "text", "email":
				text = name
			case "password":
				fields.Set(name, b.user.Password)
				fields.Set(text, b.user.Name)
			}
		case n.Data == "button" && attr["value"] == map[bool]string{false: "allow", true: "deny"}[b.Refuses]:
			fields.Set(attr["name"], attr["value"])
		}
	}
	return attributes(form)["action"], fields, true
}

// first is the first element of that name.
func first(doc *html.Node, name string) *html.Node {
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == name {
			return n
		}
	}
	return nil
}

func attributes(n *html.Node) map[string]string {
	attr := make(map[string]string)
	for _, a := range n.Attr {
		attr[a.Key] = a.Val
	}
	return attr
}

// Visit opens an address.
func (b *Browser) Visit(t testing.TB, address string) {
	t.Helper()
	if _, _, err := b.request(http.MethodGet, address, nil); err != nil {
		t.Fatal(err)
	}
}

// Open opens an address and follows where that leads to. It returns the page.
func (b *Browser) Open(t testing.TB, address string) string {
	t.Helper()
	return b.follow(t, http.MethodGet, address, nil)
}

// Submit sends the page's form that goes to an address which ends with action, and follows where that leads to. It returns the page.
func (b *Browser) Submit(t testing.TB, page, action string) string {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		target := attributes(n)["action"]
		if n.Type != html.ElementNode || n.Data != "form" || !strings.HasSuffix(target, action) {
			continue
		}
		fields := make(url.Values)
		for input := range n.Descendants() {
			if attr := attributes(input); input.Type == html.ElementNode && input.Data == "input" {
				fields.Set(attr["name"], attr["value"])
			}
		}
		return b.follow(t, http.MethodPost, target, fields)
	}
	t.Fatalf("no form to %s: %s", action, page)
	return ""
}

func (b *Browser) follow(t testing.TB, method, target string, form url.Values) string {
	t.Helper()
	for range 10 {
		resp, page, err := b.request(method, target, form)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Header.Get("Location") == "" {
			return page
		}
		next, err := resp.Location()
		if err != nil {
			t.Fatal(err)
		}
		method, target, form = http.MethodGet, next.String(), nil
	}
	t.Fatalf("still under way at %s", target)
	return ""
}
