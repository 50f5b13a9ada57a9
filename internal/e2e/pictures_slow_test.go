//go:build slow

package e2e

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

var writePictures = flag.Bool("pictures", false, "write docs/pictures, in place of asking whether they are current")

const (
	docsPictures = "../../docs/pictures"
	rendered     = docsPictures + "/pages.txt" // what each picture shows
)

// shot is one picture.
type shot struct {
	Name   string `json:"name"`
	URL    string `json:"url"`
	Width  int    `json:"width"` // of the window; a picture is as high as its page
	Scheme string `json:"scheme"`

	// SignedIn has it seen by alice, who is an operator.
	SignedIn bool `json:"signedIn"`
}

// The pictures of the documentation are taken here. Their pixels depend on the fonts of a machine, so what is compared is the page that the gateway sent, with its
// style, without what is new each time.
func TestSlowPicturesOfTheDocumentationAreCurrent(t *testing.T) {
	needNode(t)
	chromium := needChromium(t)
	w := testenv.Start(t, testenv.Options{
		Global: `admin {
			allow user alice
		}
		console {
			brand "Example Inc."
		}`,
		Proxy: `name       "Company Jira"
			scopes     read write
			scope_text read  "read issues, boards and comments"
			scope_text write "create and change issues"
			consent    remember
			allowed_redirects claude`,
	})
	w.NewPlainBotNamed(t, "Claude").Login(t, testenv.NewBrowser(testenv.Alice))
	w.Terminate()
	inVault(t, w, func(v *tokenstore.Vault) { believableGrants(t, v) })
	w.Run()
	const redirect = "https://claude.ai/api/mcp/auth_callback"
	status, _, client := post(t, w.URL+"/api/v1/oauth-proxy/register", "application/json",
		`{"client_name":"Claude","redirect_uris":["`+redirect+`"],"token_endpoint_auth_method":"none","client_uri":"https://claude.ai"}`)
	if status != http.StatusCreated {
		t.Fatalf("register: %d %v", status, client)
	}
	consent := w.URL + "/api/v1/oauth-proxy/demo/authorize?" + url.Values{
		"response_type": {"code"}, "client_id": {client["client_id"].(string)}, "redirect_uri": {redirect}, "state": {"s"}, "scope": {"read write"},
		"code_challenge": {strings.Repeat("A", 43)}, "code_challenge_method": {"S256"},
	}.Encode()
	shots := []shot{
		{Name: "consent", URL: consent, Width: 640, Scheme: "light"},
		{Name: "consent-phone", URL: consent, Width: 390, Scheme: "dark"},
		{Name: "connections", URL: w.URL + "/connections", Width: 960, Scheme: "light", SignedIn: true},
		{Name: "grants", URL: w.URL + "/admin/grants", Width: 1280, Scheme: "dark", SignedIn: true},
	}
	dir := pictures(t)
	lines := drive(t, "pictures.mjs", map[string]any{
		"chromium": chromium, "pictures": dir, "base": w.URL, "user": testenv.Alice.Name, "password": testenv.Alice.Password, "shots": shots,
	}, nil)
	if !strings.Contains(lines, fmt.Sprintf(`{"done":%d}`, len(shots))) || t.Failed() {
		t.Fatalf("it did not come to its end:\n%s", lines)
	}
	var now strings.Builder
	for _, s := range shots {
		page, err := os.ReadFile(filepath.Join(dir, s.Name+".html"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&now, "%s.png %d %s %x\n", s.Name, s.Width, s.Scheme, sha256.Sum256([]byte(unchanging(string(page)))))
	}
	if *writePictures {
		for _, s := range shots {
			shrink(t, filepath.Join(dir, s.Name+".png"), filepath.Join(docsPictures, s.Name+".png"))
		}
		write(t, rendered, now.String())
		return
	}
	then, err := os.ReadFile(rendered)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(now.String()) {
		if !strings.Contains(string(then), line) {
			name, _, _ := strings.Cut(line, " ")
			t.Errorf("docs/pictures/%s: the gateway draws another page now: run make pictures, and look at the picture", name)
		}
	}
}

// changing is what differs from one run to the next in pages of the same gateway.
var changing = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`name="(csrf|request)" value="[^"]*"`), `name="$1" value="SECRET"`},
	{regexp.MustCompile(`\b[A-Z2-7]{26}\b|\b[0-9a-zA-Z]{26}\b`), "ID"},
	{regexp.MustCompile(`\bgateway_[0-9a-f]+\b`), "CLIENT"},
	{regexp.MustCompile(`\b[A-Za-z0-9_-]{43}\b`), "HASH"},
	{regexp.MustCompile(`(localhost|127\.0\.0\.1):\d+\b`), "$1:PORT"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?Z?`), "TIME"},
	{regexp.MustCompile(`\d{1,2} [A-Z][a-z]{2,8} \d{4}(, \d\d:\d\d(:\d\d)?( UTC)?)?`), "TIME"},
	{regexp.MustCompile(`just now|in a moment|in \d+ (second|minute|hour|day)s?|\d+ (second|minute|hour|day)s? ago`), "AGO"},
}

// unchanging is a page without what differs from one run to the next.
func unchanging(page string) string {
	for _, c := range changing {
		page = c.what.ReplaceAllString(page, c.with)
	}
	return page
}

// shrink writes a picture anew with the 256 colours that it has most of, which is all of them but shades at the edges of letters.
func shrink(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	full, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	pixels := make(map[color.NRGBA]int)
	for y := range full.Bounds().Dy() {
		for x := range full.Bounds().Dx() {
			pixels[color.NRGBAModel.Convert(full.At(x, y)).(color.NRGBA)]++
		}
	}
	most := slices.SortedFunc(maps.Keys(pixels), func(a, b color.NRGBA) int { return pixels[b] - pixels[a] })
	var palette color.Palette
	for _, c := range most[:min(len(most), 256)] {
		palette = append(palette, c)
	}
	small := image.NewPaletted(full.Bounds(), palette)
	draw.Draw(small, small.Bounds(), full, image.Point{}, draw.Src)
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, small); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 100<<10 {
		t.Errorf("%s has %d bytes, more than 100 kB: show less of the page", to, out.Len())
	}
	if err := os.WriteFile(to, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// believableGrants fills a vault with what a small company's gateway has.
func believableGrants(t *testing.T, v *tokenstore.Vault) {
	t.Helper()
	const day = 24 * time.Hour
	now := v.Now()
	for _, g := range []struct {
		user, client string
		made, used   time.Duration
		broken       string
	}{
		{"bob", "Cursor", 4 * day, 5 * time.Hour, ""},
		{"carol", "Report bot", 30 * day, 6 * time.Hour, ""},
		{"dave", "Visual Studio Code", 28 * day, 27 * time.Hour, ""},
		{"erin", "Claude", 17 * day, 8 * time.Hour, ""},
		{"frank", "ChatGPT", 9 * day, 4 * day, "the provider said invalid_grant: the user has to log in again"},
		{"grace", "Claude", 22 * day, 7 * time.Hour, ""},
		{"heidi", "Cursor", 12 * day, 3 * time.Hour, ""},
	} {
		name := strings.ToUpper(g.user[:1]) + g.user[1:] + " Example"
		if err := v.Commit(t.Context(), tokenstore.Save(&tokenstore.Grant{
			Meta: tokenstore.Meta{ID: tokenstore.NewID(now.Add(-g.made)), DeleteAfter: now.Add(100 * day)}, State: tokenstore.StateActive, ClientID: "gateway_" + strings.ToLower(strings.ReplaceAll(g.client, " ", "")), Client: g.client,
			Proxy: "demo", Resource: "https://gateway.example.com/jira/mcp", Provider: "demo", Scopes: []string{"read", "write"}, UserID: "user-" + g.user, Broken: g.broken,
			User: tokenstore.User{Provider: "demo", Subject: g.user, Login: g.user, Name: name, Email: g.user + "@example.com", EmailVerified: true}, AccountID: "account-of-" + g.user,
			Created: now.Add(-g.made), Used: now.Add(-g.used), Expires: now.Add(30*day - g.used), Ends: now.Add(90*day - g.made), Family: tokenstore.RefreshFamily{Generation: 1, Current: "x", Rotated: now.Add(-g.used)},
		})); err != nil {
			t.Fatal(err)
		}
	}
}
