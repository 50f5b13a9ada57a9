package docs

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-oauth-proxy/caddy-oauth-proxy"
)

// statement is a line of a Caddyfile, with the block that it opens.
type statement struct {
	head  string
	opens bool
	body  []statement
}

// words are those of the first line.
func (s statement) words() []string { return append(strings.Fields(s.head), "") }

// find returns the first statement in the block that begins with a word.
func (s statement) find(word string) *statement {
	if i := slices.IndexFunc(s.body, func(s statement) bool { return s.words()[0] == word }); i >= 0 {
		return &s.body[i]
	}
	return nil
}

// String is the statement as it stands in a Caddyfile.
func (s statement) String() string {
	if !s.opens {
		return s.head + "\n"
	}
	text := s.head + " {\n"
	for _, inner := range s.body {
		text += inner.String()
	}
	return text + "}\n"
}

// statements reads a Caddyfile. Lines that stand for what is left out are left out.
func statements(text string) (read []statement, err error) {
	open := []*[]statement{&read}
	text = strings.ReplaceAll(text, "{ … }", "{\n}")
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(regexp.MustCompile(`(^|\s)#.*`).ReplaceAllString(line, ""))
		head, opens := strings.CutSuffix(line, "{")
		switch within := open[len(open)-1]; {
		case line == "" || line == "…":
		case line == "}" && len(open) == 1:
			return nil, errors.New("a } too many")
		case line == "}":
			open = open[:len(open)-1]
		default:
			*within = append(*within, statement{head: strings.TrimSpace(head), opens: opens})
			if opens {
				open = append(open, &(*within)[len(*within)-1].body)
			}
		}
	}
	if len(open) > 1 {
		return nil, errors.New("a } is missing")
	}
	return read, nil
}

// notation is what pages that say how something is written have in the place of words.
var notation = strings.NewReplacer("<name>", "okta", "<id>", "jira", "<proxy>", "jira", "<upstream>…", "https://jira-mcp.internal/mcp", "<path>", "/mcp", "<matcher>", "/oauth/*", "<connection>", "host=db.example.com")

// variants are the texts that one in this notation stands for: with and without what is in brackets, and with each of a|b.
func variants(text string) []string {
	text = notation.Replace(text)
	if m := regexp.MustCompile(` \[([^]]*)\]`).FindStringSubmatchIndex(text); m != nil {
		return append(variants(text[:m[0]]+" "+text[m[2]:m[3]]+text[m[1]:]), variants(text[:m[0]]+text[m[1]:])...)
	}
	if m := regexp.MustCompile(` (\S+)\|(\S+)`).FindStringSubmatchIndex(text); m != nil {
		return append(variants(text[:m[3]]+text[m[5]:]), variants(text[:m[2]]+text[m[4]:])...)
	}
	return []string{text}
}

// alternatives takes statements that begin with the same word for ones of which a Caddyfile has one.
func alternatives(read []statement) (all [][]statement) {
	times := make(map[string]int)
	for _, s := range read {
		times[s.words()[0]]++
	}
	once := slices.DeleteFunc(slices.Clone(read), func(s statement) bool { return times[s.words()[0]] > 1 })
	if len(once) == len(read) {
		return [][]statement{read}
	}
	for _, s := range read {
		if times[s.words()[0]] > 1 {
			all = append(all, append(slices.Clone(once), s))
		}
	}
	return all
}

// complete makes a whole Caddyfile of a part of one: what stands there goes where it belongs, and what it names and does not have is added.
func complete(t *testing.T, part []statement) string {
	t.Helper()
	global, option := statement{opens: true}, statement{head: "oauth_proxy", opens: true}
	site := statement{head: "gateway.example.com", opens: true}
	var sites []statement
	for _, s := range part {
		switch word := s.words()[0]; {
		case word == "":
			global.body = append(global.body, s.body...)
		case word == "oauth_proxy" && s.opens:
			option.body = append(option.body, s.body...)
		case strings.Contains(word, "."):
			sites = append(sites, s)
		case strings.HasPrefix(word, "@") || slices.Contains(append(directives(t), "route", "respond"), word):
			site.body = append(site.body, s)
		case word == "upstream_token":
			option.body = append(option.body, statement{head: "proxy jira", opens: true, body: []statement{s}})
		default:
			option.body = append(option.body, s)
		}
	}
	if given := global.find("oauth_proxy"); given != nil {
		option.body = append(option.body, given.body...)
		global.body = slices.DeleteFunc(global.body, func(s statement) bool { return s.head == given.head })
	}
	fill(&option, append(sites, site))
	if len(sites) == 0 {
		serve(&site, option)
		sites = []statement{site}
	}
	global.body = append(global.body, option)
	text := global.String()
	for _, s := range sites {
		text += s.String()
	}
	return text
}

// serve adds to a site the endpoints, and the proxies that nothing in it serves.
func serve(site *statement, option statement) {
	served := make(map[string]bool)
	each(*site, func(s statement) { served[s.words()[1]] = true })
	if site.find("oauth_proxy") == nil {
		site.body = append(site.body, statement{head: "oauth_proxy"})
	}
	for _, s := range option.body {
		if words := s.words(); words[0] == "proxy" && !served[words[1]] {
			site.body = append(site.body, statement{head: "mcp_proxy " + words[1] + " http://localhost:9000"})
		}
	}
}

// fill adds to the global option what it, and sites, name and it does not have.
func fill(option *statement, sites []statement) {
	have := func(kind, name string) bool {
		return slices.ContainsFunc(option.body, func(s statement) bool { return s.words()[0] == kind && s.words()[1] == name })
	}
	named := func(kind string, words []string) {
		for _, name := range words {
			if name != "" && !have(kind, name) {
				option.body = append(option.body, statement{head: kind + " " + name, opens: true})
			}
		}
	}
	for _, s := range slices.Concat([]statement{*option}, sites) {
		each(s, func(s statement) {
			switch words := s.words(); {
			case words[0] == "mcp_proxy" || words[0] == "mcp_filter":
				named("proxy", words[1:2])
			case words[0] == "proxies":
				named("proxy", words[1:])
			case words[0] == "login" || words[0] == "provider" && !s.opens:
				named("provider", words[1:2])
			}
		})
	}
	if option.find("proxy") == nil {
		named("proxy", []string{"jira"})
	}
	if option.find("provider") == nil {
		named("provider", []string{"okta"})
	}
	first, providers := option.find("provider").words()[1], 0
	for i := range option.body {
		if s := &option.body[i]; s.words()[0] == "provider" {
			providers++
			switch {
			case len(s.body) > 0:
			case s.words()[1] == "mcp":
				s.body = []statement{{head: "server https://mcp.example.com/mcp"}}
			case strings.HasPrefix(s.words()[1], "google"): // which tells an organisation
				s.body = []statement{{head: "type google"}, {head: "client_id a"}, {head: "client_secret {env.A}"}}
			default:
				s.body = []statement{{head: "type oidc"}, {head: "issuer https://login.example.com"}, {head: "client_id a"}, {head: "client_secret {env.A}"}}
			}
		}
	}
	for i := range option.body {
		s := &option.body[i]
		if s.words()[0] != "proxy" {
			continue
		}
		if s.find("resource") == nil {
			s.body = append(s.body, statement{head: "resource https://gateway.example.com/" + s.words()[1] + "/mcp"})
		}
		if providers > 1 && s.find("provider") == nil {
			s.body = append(s.body, statement{head: "provider " + first})
		}
	}
	if vault := option.find("vault"); vault != nil && vault.words()[1] == "postgres" && option.find("encryption_key") == nil {
		option.body = append(option.body, statement{head: "encryption_key {env.VAULT_KEY}"})
	}
	if option.find("issuer") == nil {
		option.body = append(option.body, statement{head: "issuer https://gateway.example.com"})
	}
}

// each visits a statement and those within it.
func each(s statement, visit func(statement)) {
	visit(s)
	for _, inner := range s.body {
		each(inner, visit)
	}
}

// checkCaddyfile has Caddy adapt and validate each Caddyfile that the block stands for.
func checkCaddyfile(t *testing.T, b fenced) error {
	t.Helper()
	for _, text := range variants(b.text) {
		read, err := statements(text)
		if err != nil {
			return err
		}
		for _, part := range alternatives(read) {
			whole := complete(t, part)
			if err := validate(t, whole); err != nil {
				return fmt.Errorf("%w\nin\n%s", err, whole)
			}
		}
	}
	return nil
}

// validate does with a Caddyfile what caddy validate does, where the secrets and files that it names are there.
func validate(t *testing.T, text string) error {
	t.Helper()
	dir := t.TempDir()
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"secret", "vault-key", "unwrap-key", "acme.svg"} {
		content := base64.StdEncoding.EncodeToString(secret)
		if file == "acme.svg" {
			content = `<svg xmlns="http://www.w3.org/2000/svg"/>`
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "pages"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	t.Setenv("PGHOST", "db.example.com")
	text = regexp.MustCompile(`\{(env\.\w+|file\./(run|etc/caddy)/secrets/[\w.-]+)\}`).ReplaceAllLiteralString(text, "{file."+dir+"/secret}")
	text = strings.NewReplacer(" /etc/caddy/", " "+dir+"/", " /var/lib/caddy/", " "+dir+"/", " /var/log/caddy/", " "+dir+"/", " /usr/local/bin/", " "+dir+"/").Replace(text)
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err
	}
	for _, w := range warnings {
		if !strings.Contains(w.Message, "not formatted") {
			return errors.New(w.Message)
		}
	}
	return validateJSON(adapted)
}

// validateJSON provisions the modules of a configuration, and runs nothing.
func validateJSON(text []byte) error {
	var config caddy.Config
	if err := caddy.StrictUnmarshalJSON(text, &config); err != nil {
		return err
	}
	config.Admin = &caddy.AdminConfig{Disabled: true}
	return caddy.Validate(&config)
}
