package console

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
)

// overlay is a file system in which files of another take the place of those of the same name.
type overlay struct{ own, base fs.FS }

func (o overlay) Open(name string) (fs.File, error) {
	f, err := o.own.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return o.base.Open(name)
	}
	return f, err
}

// maxTemplate bounds a file of the operator's, in bytes.
const maxTemplate = 256 << 10

// replaced are the files that the pages are made of, with those of the operator's in their place. A file that takes no other's place is refused: its
// name is a slip of the pen.
func replaced(own fs.FS) (fs.FS, error) {
	base, err := fs.Sub(files, "pages")
	if err != nil || own == nil {
		return base, err
	}
	entries, err := fs.ReadDir(own, ".")
	if err != nil {
		return nil, err
	}
	known := []string{"layout.html", "partials.html", "style.css"}
	for _, name := range names {
		known = append(known, name+".html")
	}
	slices.Sort(known)
	for _, entry := range entries {
		name := entry.Name()
		switch info, err := entry.Info(); {
		case err != nil:
			return nil, err
		case strings.HasPrefix(name, ".") || entry.IsDir() && !slices.Contains(known, name):
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("%s takes the place of no page; those that can be replaced are %s", name, strings.Join(known, ", "))
		case info.Size() > maxTemplate:
			return nil, fmt.Errorf("%s is larger than 256 KiB", name)
		}
	}
	return overlay{own, base}, nil
}

// tryAll draws every page with made-up content, full and empty.
func (p *Pages) tryAll() error {
	for _, name := range names {
		for _, content := range samples(name) {
			if _, err := p.draw(name, content); err != nil {
				return fmt.Errorf("templates: %w", err)
			}
		}
	}
	return nil
}

// samples are contents that a page could have: all of it, and as little as there can be.
func samples(name string) []page {
	now := time.Date(2026, 7, 28, 12, 0, 0, 0, time.UTC)
	scopes := []Scope{{Name: "read", Text: "read"}, {Name: "write"}}
	facts := []Fact{{Name: "Name", Value: Value{Text: "Text", Link: "https://gateway.example.com/", Note: "Note"}}, {Name: "Time", Value: Value{Time: now, Badge: &Badge{"valid", "valid"}, List: []string{"one"}}}}
	full := map[string]any{
		"consent": Consent{ClientName: "Bot", ClientURI: "https://bot.example.com", RedirectHost: "bot.example.com", VerifiedHost: "bot.example.com", Login: "sso", Scopes: scopes, Choices: scopes, Remember: true, Changed: true},
		"connect": Connect{Proxy: "Jira", Login: "sso", Scopes: scopes},
		"session": Session{Proxy: "Jira", Resource: "https://gateway.example.com/jira/mcp", User: "alice@example.com", Token: "token", Expires: now, Home: "/"},
		"problem": Problem{Title: "Title", Text: "Text", Advice: "Advice", Code: "code", Home: "/", Retry: "/", RetryText: "Again"},
		"trouble": Problem{Title: "Title", Text: "Text", Advice: "Advice", Code: "code", Home: "/", Retry: "/", RetryText: "Again"},
		"notice":  Notice{Title: "Title", Text: "Text", Details: [][2]string{{"name", "value"}}},
		"home":    Home{Issuer: "https://gateway.example.com", Proxies: []HomeProxy{{"Jira", "https://gateway.example.com/jira/mcp"}}, Connections: "/connections"},
		"signin":  SignIn{Title: "Title", Text: "Text", Choices: []Choice{{"okta", "/"}}, Home: "/"},
		"confirm": Confirm{Title: "Title", Texts: []string{"Text"}, Facts: facts, Action: "/", Hidden: []Hidden{{"id", "1"}}, Button: "Do it", Cancel: "/", Danger: true},
		"connections": Connections{
			Grants:   []Connection{{Client: "Bot", From: "bot.example.com vouches for it", Verified: true, Badge: Badge{"valid", "valid"}, Reason: "Reason", Facts: facts, Cut: Action{Text: "Cut", Link: "/", About: "Bot"}}},
			Accounts: []Connection{{Client: "okta", Badge: Badge{"broken", "broken"}, Facts: facts, Cut: Action{Text: "Disconnect", Link: "/", About: "okta"}}},
			Servers:  []Server{{"Jira", "https://gateway.example.com/jira/mcp", "/"}}, CutAll: "/", SignOutAll: "/", Browsers: 2,
		},
	}
	maps.Copy(full, operatorSamples(facts))
	maps.Copy(full, assistantSamples())
	empty := map[string]any{
		"assistant": AssistantStart{}, "assistantform": AssistantForm{}, "assistantresult": AssistantResult{}, "assistantplan": AssistantPlan{},
		"overview": Overview{}, "list": List{}, "sheet": Sheet{}, "form": Form{},
		"consent": Consent{}, "connect": Connect{}, "session": Session{}, "problem": Problem{}, "trouble": Problem{}, "notice": Notice{}, "home": Home{}, "signin": SignIn{},
		"confirm": Confirm{}, "connections": Connections{},
	}
	var frame *Frame
	if isFramed(name) {
		frame = &Frame{Base: "https://gateway.example.com", Section: "grants", User: "alice@example.com", Provider: "okta", Admin: true, CSRF: "token", Result: &Result{Text: "Done", Link: "/", LinkText: "Show"}}
	}
	return []page{{Title: "Title", Frame: frame, Data: full[name]}, {Title: "Title", Frame: frame, Data: empty[name]}}
}
