package testenv

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// Get opens an address with the browser's cookies, follows no redirect, and returns the page.
func (b *Browser) Get(t testing.TB, address string) (status int, page string) {
	t.Helper()
	resp, page, err := b.request(http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, page
}

// Fill sends the form of a page that has the named field, with the fields that the page has filled in and those in set, and returns the next page.
func (b *Browser) Fill(t testing.TB, page, field string, set map[string]string) (status int, next string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for form := range doc.Descendants() {
		if form.Type != html.ElementNode || form.Data != "form" {
			continue
		}
		fields := make(url.Values)
		for n := range form.Descendants() {
			attr := attributes(n)
			_, checked := attr["checked"]
			if n.Type == html.ElementNode && attr["name"] != "" && (n.Data == "input" || n.Data == "textarea" || n.Data == "select") && (attr["type"] != "checkbox" || checked) {
				fields.Set(attr["name"], attr["value"])
			}
		}
		if !fields.Has(field) {
			continue
		}
		for name, value := range set {
			fields.Set(name, value)
		}
		resp, next, err := b.request(http.MethodPost, attributes(form)["action"], fields)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, next
	}
	t.Fatalf("no form with %s on the page:\n%s", field, page)
	return 0, ""
}
