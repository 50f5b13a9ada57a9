package authserver_test

import (
	"net/http"
	"net/url"
	"testing"
)

// A neighbouring site can plant cookies beside those of the gateway, though not read or replace them.
func TestT11PlantedCookieCountsForNothing(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(w *world, r *http.Request, own []*http.Cookie){
		"the same name twice": func(_ *world, r *http.Request, own []*http.Cookie) {
			for _, c := range own {
				r.AddCookie(&http.Cookie{Name: c.Name, Value: "planted"})
			}
		},
		"the same name and value twice": func(_ *world, r *http.Request, own []*http.Cookie) {
			for _, c := range own {
				r.AddCookie(c)
			}
		},
		"the value under another name": func(_ *world, r *http.Request, own []*http.Cookie) {
			r.Header.Del("Cookie")
			for _, c := range own {
				r.AddCookie(&http.Cookie{Name: "x_" + c.Name, Value: c.Value})
				r.AddCookie(&http.Cookie{Name: "__Host-" + c.Name, Value: c.Value})
			}
		},
		"the values of another browser's login": func(w *world, r *http.Request, own []*http.Cookie) {
			other := w.browser()
			other.allow(other.authorize(authorizeParams(w.register(""))))
			r.Header.Del("Cookie")
			for i, c := range other.cookies() {
				r.AddCookie(&http.Cookie{Name: own[min(i, len(own)-1)].Name, Value: c.Value})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			br := w.browser()
			callback := w.callbackURL(br.allow(br.authorize(authorizeParams(w.register("")))))
			own := br.cookies()
			if len(own) < 2 {
				t.Fatalf("the browser has %v", own)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, callback, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range own {
				req.AddCookie(c)
			}
			plant(w, req, own)
			if a := do(t, noRedirect(), req); a.status != http.StatusForbidden || a.header.Get("Location") != "" {
				t.Errorf("%d %v", a.status, a.header)
			}
			if n := w.provider.tokenRequests(); n != 0 {
				t.Errorf("%d requests at the provider", n)
			}
		})
	}
}

// cookies are those that the browser sends.
func (b *browser) cookies() []*http.Cookie {
	u, err := url.Parse(b.w.url)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return b.client.Jar.Cookies(u)
}
