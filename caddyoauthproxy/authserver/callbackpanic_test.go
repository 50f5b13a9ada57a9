package authserver_test

import (
	"net/http"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A callback's work goes on apart from its request, where net/http would contain a panic.
func TestPanicInACallbackEndsNothingButTheLogin(t *testing.T) {
	t.Parallel()
	w, s := meddledWorld(t)
	b := w.register("")
	br := w.browser()
	back := w.callbackURL(br.allow(br.authorize(authorizeParams(b))))
	s.meddle(tokenstore.KindLogin, func() { panic("a defect") })
	if a := br.get(back); a.status != http.StatusInternalServerError {
		t.Errorf("a callback that panics: %d %s", a.status, a.body)
	}
	if a := w.tokens(w.postForm(endpoints+"/token", codeForm(b, w.login(b)))); !w.works(a.access) {
		t.Error("the next login does not work")
	}
}
