package authserver_test

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// largest is the largest row of a vault, and its size.
func largest(t *testing.T, w *world) (kind tokenstore.Kind, size int) {
	t.Helper()
	for _, k := range tokenstore.Kinds() {
		rows, err := w.store.List(t.Context(), k, tokenstore.Query{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			if len(row.Sealed) > size {
				kind, size = k, len(row.Sealed)
			}
		}
	}
	return kind, size
}

func TestProviderThatAnswersTooMuchIsRefusedBeforeTheVault(t *testing.T) {
	t.Parallel()
	const most = 128 << 10
	long := func(n int) string { return strings.Repeat("x", n) }
	for name, c := range map[string]struct {
		tokens string
		user   map[string]any
		ok     bool
	}{
		"access token of a megabyte":  {tokens: `{"access_token":"` + long(1<<20) + `","token_type":"Bearer"}`},
		"refresh token of a megabyte": {tokens: `{"access_token":"t","refresh_token":"` + long(1<<20-1000) + `","token_type":"Bearer"}`},
		"tokens of 64 KiB and a byte": {tokens: `{"access_token":"` + long(32<<10) + `","refresh_token":"` + long(32<<10+1) + `","token_type":"Bearer"}`},
		"tokens of 64 KiB":            {tokens: `{"access_token":"` + long(32<<10) + `","refresh_token":"` + long(32<<10) + `","token_type":"Bearer"}`, ok: true},
		"scope of a megabyte":         {tokens: `{"access_token":"t","token_type":"Bearer","scope":"` + strings.Repeat("s ", 500_000) + `"}`},
		"subject of 900 KB":           {user: map[string]any{"sub": long(900_000)}},
		"name of 900 KB":              {user: map[string]any{"name": long(900_000)}},
		"e-mail address of 900 KB":    {user: map[string]any{"email": long(900_000) + "@example.com"}},
		"many groups":                 {user: map[string]any{"groups": strings.Fields(strings.Repeat("group-with-a-name ", 40_000))}},
		"answer without an end":       {user: map[string]any{"x": long(3 << 20)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := w.register("")
			w.provider.mu.Lock()
			w.provider.tokens = c.tokens
			user := maps.Clone(w.provider.user)
			maps.Copy(user, c.user)
			w.provider.user = user
			w.provider.mu.Unlock()
			br := w.browser()
			back := location(t, br.get(w.callbackURL(br.allow(br.authorize(authorizeParams(b))))))
			kind, size := largest(t, w)
			t.Logf("%s; the largest row is %s with %d bytes", back.Query().Get("error")+" "+back.Query().Get("error_description"), kind, size)
			if size > most {
				t.Errorf("a row of kind %s has %d bytes", kind, size)
			}
			if code := back.Query().Get("code"); c.ok != (code != "") {
				t.Errorf("ended at %.200s", back)
			} else if code == "" && back.Query().Get("error") == "" {
				t.Errorf("no error in %.200s", back)
			}
			if all, err := w.vault.Count(t.Context(), tokenstore.KindAccount); err != nil || !c.ok && all > 0 {
				t.Errorf("%d accounts, %v", all, err)
			}
			w.provider.mu.Lock()
			w.provider.tokens, w.provider.user = "", map[string]any{"sub": "u1"}
			w.provider.mu.Unlock()
			w.tokens(w.postForm(endpoints+"/a/token", codeForm(b, w.login(b)))) // and nothing is the worse for it
		})
	}
}

func TestTheGreatestRegistrationThatIsAllowedIsASmallRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	uris := make([]string, 0, 12)
	for i := range 12 {
		uris = append(uris, fmt.Sprintf(`"https://bot.example.com/%d/%s"`, i, strings.Repeat("x", 2000)))
	}
	greatest := 0
	for n := 1; n <= 12; n++ {
		if a := w.postJSON(endpoints+"/a/register", `{"redirect_uris":[`+strings.Join(uris[:n], ",")+`],"client_name":"`+strings.Repeat("ü", 512)+`"}`); a.status == http.StatusCreated {
			greatest = n
		} else if a.status != http.StatusBadRequest && a.status != http.StatusRequestEntityTooLarge || !strings.Contains(a.body, "error_description") {
			t.Errorf("%d redirect URIs: %d %s", n, a.status, a.body)
		}
	}
	kind, size := largest(t, w)
	t.Logf("%d redirect URIs of 2 KB are allowed; the largest row is %s with %d bytes", greatest, kind, size)
	if greatest == 0 || greatest > 10 || size > 64<<10 {
		t.Errorf("%d redirect URIs were taken, and a %s has %d bytes", greatest, kind, size)
	}
}
