package console

import "net/http"

// SignIn is the page on the way into and out of the gateway's own pages.
type SignIn struct {
	Title, Text string

	// Choices are where to go on.
	Choices []Choice

	// Home is the start page.
	Home string
}

// Choice is a link that leads on.
type Choice struct{ Text, URL string }

// SignIn draws the page.
func (p *Pages) SignIn(w http.ResponseWriter, s SignIn) {
	p.write(w, http.StatusOK, "signin", s.Title, s)
}
