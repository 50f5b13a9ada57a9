package authserver_test

import (
	"crypto/x509"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/outbound"
)

// publisher is a web site that publishes a client's metadata document, or something else.
type publisher struct {
	*httptest.Server
	mu      sync.Mutex
	answer  http.HandlerFunc
	fetches int
}

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	p := new(publisher)
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.fetches++
		answer := p.answer
		p.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(p.Close)
	p.publish(p.document(nil))
	return p
}

// id is the client_id.
func (p *publisher) id() string { return p.URL + "/client.json" }

// document is a good document with changes; nil removes a member.
func (p *publisher) document(changes map[string]any) map[string]any {
	doc := map[string]any{
		"client_id": p.id(), "client_name": "Published Bot", "redirect_uris": []string{redirectURI},
		"grant_types": []string{"authorization_code", "refresh_token"}, "token_endpoint_auth_method": "none",
	}
	maps.Copy(doc, changes)
	maps.DeleteFunc(doc, func(_ string, v any) bool { return v == nil })
	return doc
}

func (p *publisher) serve(h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = h
}

func (p *publisher) publish(doc map[string]any) {
	body, _ := json.Marshal(doc)
	p.serveBody(body)
}

func (p *publisher) serveBody(body []byte) {
	p.serve(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	})
}

func (p *publisher) fetched() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetches
}

// accepted makes the world fetch documents from the publisher.
func (p *publisher) accepted(o *authserver.Options) {
	pool := x509.NewCertPool()
	pool.AddCert(p.Certificate())
	o.Documents.Fetch = outbound.NewGuarded(outbound.Guard{Loopback: true, RootCAs: pool})
}

func TestClientWithMetadataDocumentLogsInAndRefreshes(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	w := newWorld(t, p.accepted)
	if m := w.get("/.well-known/oauth-authorization-server").json(t); m["client_id_metadata_document_supported"] != true {
		t.Errorf("metadata: %v", m)
	}
	b := bot{id: p.id()}
	page := w.browser().authorize(authorizeParams(b))
	host := strings.TrimPrefix(p.URL, "https://")
	if page.status != http.StatusOK || !strings.Contains(page.body, "Published Bot") || !strings.Contains(page.body, "web site <strong>"+host+"</strong> vouches") {
		t.Errorf("consent page: %d %s", page.status, page.body)
	}
	got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
	next := w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))
	if !w.works(next.access) {
		t.Error("the token does not work")
	}
	if n := p.fetched(); n != 1 {
		t.Errorf("%d fetches; the document should be kept", n)
	}
	if a := w.postForm(endpoints+"/a/introspect", url.Values{"token": {got.access}, "client_id": {b.id}}); a.status != http.StatusUnauthorized {
		t.Errorf("introspection by a public client: %d", a.status)
	}
}

func TestT21BadMetadataDocumentsAreAPageAndTheNextGoodOneWorks(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	w := newWorld(t, p.accepted)
	good := func() { p.publish(p.document(nil)) }
	big := strings.Repeat("x", 6<<10)
	bad := map[string]func(){
		"another client_id":       func() { p.publish(p.document(map[string]any{"client_id": p.URL + "/other.json"})) },
		"client_id with a slash":  func() { p.publish(p.document(map[string]any{"client_id": p.id() + "/"})) },
		"no client_id":            func() { p.publish(p.document(map[string]any{"client_id": nil})) },
		"no name":                 func() { p.publish(p.document(map[string]any{"client_name": nil})) },
		"no redirect URIs":        func() { p.publish(p.document(map[string]any{"redirect_uris": nil})) },
		"redirect URIs no list":   func() { p.publish(p.document(map[string]any{"redirect_uris": redirectURI})) },
		"a client_secret":         func() { p.publish(p.document(map[string]any{"client_secret": "x"})) },
		"an expiring secret":      func() { p.publish(p.document(map[string]any{"client_secret_expires_at": 0})) },
		"a secret method":         func() { p.publish(p.document(map[string]any{"token_endpoint_auth_method": "client_secret_basic"})) },
		"keys that are not there": func() { p.publish(p.document(map[string]any{"token_endpoint_auth_method": "private_key_jwt"})) },
		"more than 5 KiB":         func() { p.publish(p.document(map[string]any{"x": big})) },
		"a member twice": func() {
			p.serveBody([]byte(`{"client_id":"` + p.id() + `","client_id":"` + p.id() + `","client_name":"x","redirect_uris":["` + redirectURI + `"]}`))
		},
		"HTML": func() { p.serveBody([]byte("<!doctype html><title>x</title>")) },
		"301": func() {
			p.serve(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusMovedPermanently) })
		},
		"304": func() {
			p.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) })
		},
		"404": func() { p.serve(http.NotFound) },
		"500": func() {
			p.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
		},
	}
	texts := make(map[string]bool)
	for name, publish := range bad {
		publish()
		a := w.browser().authorize(authorizeParams(bot{id: p.id()}))
		if a.status != http.StatusBadRequest || a.header.Get("Location") != "" {
			t.Errorf("%s: %d %v", name, a.status, a.header)
		}
		texts[a.body] = true
		before := p.fetched()
		w.browser().authorize(authorizeParams(bot{id: p.id()}))
		if p.fetched() != before {
			t.Errorf("%s: fetched again at once", name)
		}
		if a := w.postForm(endpoints+"/a/token", codeForm(bot{id: p.id()}, strings.Repeat("x", 43))); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: the token endpoint answers %d %s; clients would throw their tokens away", name, a.status, a.body)
		}
		w.turn(time.Minute)
		good()
		if a := w.browser().authorize(authorizeParams(bot{id: p.id()})); a.status != http.StatusOK {
			t.Errorf("%s: the good document after it: %d %s", name, a.status, a.body)
		}
		w.turn(25 * time.Hour)
	}
	if len(texts) != 1 {
		t.Errorf("%d different pages: they tell what is behind the gateway", len(texts))
	}
}

func TestT21OnlyPlainHTTPSAddressesOfAcceptedHostsAreClients(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	host := strings.TrimPrefix(p.URL, "https://")
	for name, c := range map[string]struct {
		documents authserver.Documents
		id        string
		want      int
	}{
		"any host":              {authserver.Documents{}, p.id(), http.StatusOK},
		"named host":            {authserver.Documents{Hosts: []string{"claude.ai", host}}, p.id(), http.StatusOK},
		"host that is not":      {authserver.Documents{Hosts: []string{"claude.ai", "*.0.0.1"}}, p.id(), http.StatusBadRequest},
		"switched off":          {authserver.Documents{Off: true}, p.id(), http.StatusBadRequest},
		"http":                  {authserver.Documents{}, strings.Replace(p.id(), "https", "http", 1), http.StatusBadRequest},
		"no path":               {authserver.Documents{}, p.URL, http.StatusBadRequest},
		"dot segment":           {authserver.Documents{}, p.URL + "/x/../client.json", http.StatusBadRequest},
		"encoded dot segment":   {authserver.Documents{}, p.URL + "/x/%2e%2e/client.json", http.StatusBadRequest},
		"fragment":              {authserver.Documents{}, p.id() + "#x", http.StatusBadRequest},
		"user information":      {authserver.Documents{}, "https://claude.ai@" + host + "/client.json", http.StatusBadRequest},
		"too long":              {authserver.Documents{}, p.URL + "/" + strings.Repeat("x", 200), http.StatusBadRequest},
		"a space":               {authserver.Documents{}, p.URL + "/cl ient.json", http.StatusBadRequest},
		"without redirect_uri":  {authserver.Documents{Hosts: []string{"claude.ai"}}, p.id(), http.StatusBadRequest},
		"upper-case host":       {authserver.Documents{}, "https://Claude.ai/client.json", http.StatusBadRequest},
		"dot after the host":    {authserver.Documents{}, "https://claude.ai./client.json", http.StatusBadRequest},
		"port 443":              {authserver.Documents{}, "https://claude.ai:443/client.json", http.StatusBadRequest},
		"empty port":            {authserver.Documents{}, "https://claude.ai:/client.json", http.StatusBadRequest},
		"zeros before the port": {authserver.Documents{}, strings.Replace(p.id(), "127.0.0.1:", "127.0.0.1:0", 1), http.StatusBadRequest},
		"long IPv6 address":     {authserver.Documents{}, "https://[0:0:0:0:0:0:0:1]/client.json", http.StatusBadRequest},
		"encoded host":          {authserver.Documents{}, "https://claude.ai%E3%80%82evil.test/client.json", http.StatusBadRequest},
		"backslash before host": {authserver.Documents{Hosts: []string{"claude.ai"}}, `https://` + host + `\@claude.ai/client.json`, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *authserver.Options) { o.Documents = c.documents }, p.accepted)
			params := authorizeParams(bot{id: c.id})
			if name == "without redirect_uri" {
				params.Del("redirect_uri")
			}
			if a := w.browser().authorize(params); a.status != c.want || a.header.Get("Location") != "" {
				t.Errorf("got %d %s", a.status, a.body)
			} else if name == "upper-case host" && !strings.Contains(a.body, "client_id must have its host in lower case") {
				t.Errorf("the page does not say what is wrong: %s", a.body)
			}
		})
	}
}

func TestDocumentIsKeptAsLongAsItsHeadersSayWithinBounds(t *testing.T) {
	t.Parallel()
	for header, fresh := range map[string]time.Duration{
		"":                      time.Hour,
		"max-age=1800":          30 * time.Minute,
		"public, max-age=1800":  30 * time.Minute,
		"max-age=0":             5 * time.Minute,
		"no-store":              5 * time.Minute,
		"no-cache, max-age=900": 5 * time.Minute,
		"max-age=99999999":      24 * time.Hour,
		"max-age=x":             time.Hour,
	} {
		t.Run(header, func(t *testing.T) {
			t.Parallel()
			p := newPublisher(t)
			w := newWorld(t, p.accepted)
			body, _ := json.Marshal(p.document(nil))
			p.serve(func(w http.ResponseWriter, _ *http.Request) {
				if header != "" {
					w.Header().Set("Cache-Control", header)
				}
				_, _ = w.Write(body)
			})
			visit := func() int {
				w.browser().authorize(authorizeParams(bot{id: p.id()}))
				return p.fetched()
			}
			visit()
			w.turn(fresh - time.Minute)
			if n := visit(); n != 1 {
				t.Errorf("%d fetches before its time", n)
			}
			w.turn(2 * time.Minute)
			if n := visit(); n != 2 {
				t.Errorf("%d fetches after its time, want 2", n)
			}
		})
	}
}

func TestT24ChangedDocumentEndsWhatItNoLongerCovers(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	w := newWorld(t, p.accepted)
	b := bot{id: p.id()}
	got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))

	w.turn(2 * time.Hour)
	p.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh))) // the client's site is down: nobody is logged out
	w.turn(time.Minute)
	p.publish(p.document(map[string]any{"client_name": "Renamed Bot"}))
	got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)))

	w.turn(2 * time.Hour)
	p.publish(p.document(map[string]any{"redirect_uris": []string{"https://elsewhere.test/cb"}}))
	if a := w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh)); a.oauthError(t) != "invalid_grant" {
		t.Errorf("refresh after the redirect URI is gone: %s", a.body)
	}
	if a := w.browser().authorize(authorizeParams(b)); a.status != http.StatusBadRequest || a.header.Get("Location") != "" {
		t.Errorf("authorize with the old redirect URI: %d", a.status)
	}
}

func TestT25OneLoginOfASharedClientLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	w := newWorld(t, p.accepted)
	b := bot{id: p.id()}
	first := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
	second := w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b))))
	for _, got := range []tokens{first, second} {
		if next := w.tokens(w.postForm(endpoints+"/a/token", refreshForm(b, got.refresh))); !w.works(next.access) {
			t.Error("a login ended another")
		}
	}
}

func TestT23NothingThatAClientNamesIsFetchedForThePages(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	w := newWorld(t, p.accepted)
	b := w.register(`,"logo_uri":"` + p.URL + `/logo.png","client_uri":"` + p.URL + `/home","jwks_uri":"` + p.URL + `/keys"`)
	page := w.browser().authorize(authorizeParams(b))
	if page.status != http.StatusOK || strings.Contains(page.body, "logo.png") || strings.Contains(page.body, `href="`+p.URL) {
		t.Errorf("consent page: %d %s", page.status, page.body)
	}
	if n := p.fetched(); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestT22OneHostIsNotHammeredOnBehalfOfStrangers(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.serve(http.NotFound)
	w := newWorld(t, p.accepted, unlimited)
	for i := range 100 {
		w.browser().authorize(authorizeParams(bot{id: p.URL + "/" + strconv.Itoa(i)}))
	}
	if n := p.fetched(); n < 30 || n > 45 { // one comes back every two seconds
		t.Errorf("%d requests for 100 made-up clients, want 30", n)
	}
	w.turn(time.Minute)
	p.publish(p.document(nil))
	if a := w.browser().authorize(authorizeParams(bot{id: p.id()})); a.status != http.StatusOK {
		t.Errorf("a minute later: %d", a.status)
	}
}

func TestT22MadeUpClientsDoNotUseUpTheFetchesOfKnownOnes(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	w := newWorld(t, p.accepted)
	good := bot{id: p.id()}
	flood := func() {
		t.Helper()
		before := p.fetched()
		for i := range 35 { // in half of what one address may ask for in a minute
			w.browser().authorize(authorizeParams(bot{id: p.URL + "/nonsense-" + strconv.Itoa(i)}))
		}
		if n := p.fetched() - before; n < 30 {
			t.Errorf("%d fetches for strangers, want the whole budget of 30", n)
		}
	}
	visit := func(when string) {
		t.Helper()
		before := p.fetched()
		if a := w.browser().authorize(authorizeParams(good)); a.status != http.StatusOK || p.fetched() == before {
			t.Errorf("%s: %d, %d fetches", when, a.status, p.fetched()-before)
		}
	}
	visit("first visit")
	w.turn(2 * time.Hour)
	flood()
	visit("a client that was good before")
	w.tokens(w.postForm(endpoints+"/a/token", codeForm(good, w.login(good))))
	w.turn(2 * time.Minute)
	w.reload() // with it everything that was fetched is forgotten
	flood()
	visit("a client that holds grants, after a restart")
}

func TestT22SpellingsOfAHostShareItsBudget(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.serve(http.NotFound)
	w := newWorld(t, p.accepted, unlimited)
	key := newSigner(t, "k")
	for i := range 60 { // key sets, because a client_id has one spelling only
		spelled := strings.Replace(p.URL, "127.0.0.1:", "127.0.0.1:"+strings.Repeat("0", i%2), 1)
		b := w.registerWithKeys(`"jwks_uri":"` + spelled + "/keys-" + strconv.Itoa(i) + `"`)
		w.postForm(endpoints+"/a/token", withAssertion(refreshForm(b, "x"), key.sign(w.assertion(b.id, nil))))
	}
	if n := p.fetched(); n < 30 || n > 45 { // one comes back every two seconds
		t.Errorf("%d fetches of one host, want 30", n)
	}
}

func TestT21StrangersDoNotDriveOutADocumentInUse(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	w := newWorld(t, p.accepted, unlimited)
	good := bot{id: p.id()}
	got := w.tokens(w.postForm(endpoints+"/a/token", codeForm(good, w.login(good))))
	p.serve(http.NotFound)
	for i := range 1100 {
		w.browser().authorize(authorizeParams(bot{id: p.URL + "/nonsense-" + strconv.Itoa(i)}))
	}
	got = w.tokens(w.postForm(endpoints+"/a/token", refreshForm(good, got.refresh)))
	w.turn(2 * time.Hour) // a stale copy will do, as nobody can be asked
	w.tokens(w.postForm(endpoints+"/a/token", refreshForm(good, got.refresh)))
}
