package workflows

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"
	"go.yaml.in/yaml/v3"
)

const github = "../../.github"

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(github, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// files are those of a folder, and at least so many.
func files(t *testing.T, least int, dir string) (names []string) {
	t.Helper()
	found, err := os.ReadDir(filepath.Join(github, dir))
	if err != nil || len(found) < least {
		t.Fatalf("%s: %v, %v: there should be %d", dir, found, err, least)
	}
	for _, f := range found {
		names = append(names, path.Join(dir, f.Name()))
	}
	return names
}

// checkWorkflow has actionlint read a workflow: its keys, its expressions, the inputs of actions and what else GitHub would refuse.
func checkWorkflow(name, text string) error {
	linter, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{})
	if err != nil {
		return err
	}
	found, err := linter.Lint(name, []byte(text), nil)
	errs := []error{err}
	for _, f := range found {
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

func TestGitHubTakesTheWorkflows(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, 2, "workflows") {
		if err := checkWorkflow(file, read(t, file)); err != nil {
			t.Error(err)
		}
	}
}

// dependabot is what the repository says of https://docs.github.com/en/code-security/dependabot/working-with-dependabot/dependabot-options-reference.
type dependabot struct {
	Version int `yaml:"version"`
	Updates []struct {
		Ecosystem   string   `yaml:"package-ecosystem"`
		Directory   string   `yaml:"directory"`
		Directories []string `yaml:"directories"`
		Schedule    struct {
			Interval string `yaml:"interval"`
		} `yaml:"schedule"`
		Groups map[string]struct {
			Patterns []string `yaml:"patterns"`
			Types    []string `yaml:"update-types"`
		} `yaml:"groups"`
	} `yaml:"updates"`
}

// strict decodes YAML without members that the value has no fields for.
func strict(text string, into any) error {
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	return d.Decode(into)
}

func checkDependabot(text string) error {
	var config dependabot
	if err := strict(text, &config); err != nil {
		return err
	}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if config.Version != 2 || len(config.Updates) == 0 {
		fault("version %d with %d updates, not 2 with some", config.Version, len(config.Updates))
	}
	for _, u := range config.Updates {
		if !slices.Contains([]string{"gomod", "npm", "github-actions"}, u.Ecosystem) {
			fault("package-ecosystem %q is none of ours", u.Ecosystem)
		}
		if (u.Directory == "") == (len(u.Directories) == 0) {
			fault("%s: either directory or directories", u.Ecosystem)
		}
		for _, dir := range append(u.Directories, u.Directory) {
			if dir != "" && dir != path.Clean("/"+dir) {
				fault("%s: directory %s is not written from the root", u.Ecosystem, dir)
			}
		}
		if !slices.Contains([]string{"daily", "weekly", "monthly", "quarterly", "semiannually", "yearly"}, u.Schedule.Interval) {
			fault("%s: interval %q", u.Ecosystem, u.Schedule.Interval)
		}
		for name, g := range u.Groups {
			if len(g.Patterns)+len(g.Types) == 0 {
				fault("%s: group %s has nothing that it groups by", u.Ecosystem, name)
			}
			for _, kind := range g.Types {
				if !slices.Contains([]string{"major", "minor", "patch"}, kind) {
					fault("%s: update-types %q", u.Ecosystem, kind)
				}
			}
		}
	}
	return errors.Join(errs...)
}

func TestDependabotTakesItsConfiguration(t *testing.T) {
	t.Parallel()
	if err := checkDependabot(read(t, "dependabot.yml")); err != nil {
		t.Error(err)
	}
}

// form is what https://docs.github.com/en/communities/using-templates-to-encourage-useful-issues-and-pull-requests/syntax-for-issue-forms has, as far as the forms use it.
type form struct {
	Name        string    `yaml:"name"`
	Description string    `yaml:"description"`
	Title       string    `yaml:"title"`
	Labels      []string  `yaml:"labels"`
	Body        []element `yaml:"body"`
}

type element struct {
	Type       string `yaml:"type"`
	ID         string `yaml:"id"`
	Attributes struct {
		Label       string `yaml:"label"`
		Description string `yaml:"description"`
		Placeholder string `yaml:"placeholder"`
		Render      string `yaml:"render"`
		Value       string `yaml:"value"`
		Options     []struct {
			Label    string `yaml:"label"`
			Required bool   `yaml:"required"`
		} `yaml:"options"`
	} `yaml:"attributes"`
	Validations *struct {
		Required bool `yaml:"required"`
	} `yaml:"validations"`
}

// fault is what GitHub would say of an element.
func (e element) fault() string {
	a := e.Attributes
	switch {
	case e.Type == "markdown" && (a.Value == "" || a.Label != "" || e.Validations != nil):
		return "a markdown has a value and nothing else"
	case e.Type == "markdown":
		return ""
	case !slices.Contains([]string{"textarea", "input", "checkboxes"}, e.Type):
		return "its type is none of ours"
	case a.Label == "":
		return "it has no label"
	case !regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(e.ID):
		return "its id is missing, or has other characters than letters, digits, - and _"
	case a.Render != "" && e.Type != "textarea":
		return "only a textarea is rendered"
	case (e.Type == "checkboxes") != (len(a.Options) > 0):
		return "checkboxes have options, and nothing else has"
	case e.Type == "checkboxes" && e.Validations != nil:
		return "each of the checkboxes says for itself that it is required"
	}
	return ""
}

func checkForm(text string) error {
	var f form
	if err := strict(text, &f); err != nil {
		return err
	}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if f.Name == "" || f.Description == "" {
		fault("the form has no name or no description")
	}
	seen, asks := make(map[string]bool), false
	for i, e := range f.Body {
		asks = asks || e.Type != "markdown"
		if what := e.fault(); what != "" {
			fault("body %d, %s %s: %s", i, e.Type, e.ID, what)
		}
		for _, unique := range []string{"id " + e.ID, "label " + e.Attributes.Label} {
			if seen[unique] && !strings.HasSuffix(unique, " ") {
				fault("body %d: the %s is there already", i, unique)
			}
			seen[unique] = true
		}
	}
	if !asks {
		fault("the form asks for nothing")
	}
	return errors.Join(errs...)
}

func TestGitHubTakesTheFormsOfIssues(t *testing.T) {
	t.Parallel()
	forms := 0
	for _, file := range files(t, 3, "ISSUE_TEMPLATE") {
		if path.Base(file) == "config.yml" {
			continue
		}
		forms++
		if err := checkForm(read(t, file)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	if forms < 2 {
		t.Errorf("there are %d forms", forms)
	}
	var chooser struct {
		Blank *bool `yaml:"blank_issues_enabled"`
		Links []struct {
			Name  string `yaml:"name"`
			URL   string `yaml:"url"`
			About string `yaml:"about"`
		} `yaml:"contact_links"`
	}
	if err := strict(read(t, "ISSUE_TEMPLATE/config.yml"), &chooser); err != nil {
		t.Fatal(err)
	}
	for _, l := range chooser.Links {
		if l.Name == "" || l.About == "" || !strings.HasPrefix(l.URL, "https://") {
			t.Errorf("config.yml: %+v lacks something", l)
		}
	}
}

// mutation is what somebody might write by mistake, and what must then be said.
type mutation struct{ name, old, new, want string }

func TestMistakesForGitHubAreFound(t *testing.T) {
	t.Parallel()
	workflow := func(text string) error { return checkWorkflow("workflow.yml", text) }
	for file, of := range map[string]struct {
		check     func(string) error
		mutations []mutation
	}{
		"workflows/ci.yml": {workflow, []mutation{
			{"a key that is none", "timeout-minutes:", "timeout:", "unexpected key"},
			{"an input that is none", "go-version:", "version:", `"version" is not defined in action`},
			{"an expression that is none", "${{ github.ref }}", "${{ github.reff }}", `"reff" is not defined`},
			{"a machine that is none", "runs-on: ubuntu-24.04", "runs-on: ubuntu-24.4", "unknown"},
			{"a permission that is none", "contents: read", "content: read", "unknown permission scope"},
		}},
		"workflows/release.yml": {workflow, []mutation{
			{"a job that is none", "needs: build", "needs: test", "does not exist"},
			{"an event that is none", "  push:\n", "  tag:\n", "unknown Webhook event"},
		}},
		"dependabot.yml": {checkDependabot, []mutation{
			{"a key that is none", "package-ecosystem: npm", "ecosystem: npm", "not found"},
			{"an interval that is none", "{interval: weekly}", "{interval: fortnightly}", "fortnightly"},
			{"an ecosystem that is none", "package-ecosystem: gomod", "package-ecosystem: go", "none of ours"},
			{"another version", "version: 2", "version: 1", "version 1"},
			{"a folder from nowhere", "directory: /internal/e2e/js", "directory: internal/e2e/js", "from the root"},
		}},
		"ISSUE_TEMPLATE/bug.yml": {checkForm, []mutation{
			{"a key that is none", "validations:\n      required", "validation:\n      required", "not found"},
			{"a type that is none", "type: textarea", "type: text", "none of ours"},
			{"an id twice", "id: config", "id: what", "there already"},
			{"no label", "      label: Configuration\n", "", "no label"},
			{"no description", "description: It does not do what the documentation says.\n", "", "no description"},
			{"checkboxes without any", "      options:\n", "      render: text\n      #", "did not find expected"},
		}},
		"ISSUE_TEMPLATE/feature.yml": {checkForm, []mutation{{"text for a list", "labels: [enhancement]", "labels: {a: b}", "cannot unmarshal"}}},
	} {
		for _, m := range of.mutations {
			t.Run(file+", "+m.name, func(t *testing.T) {
				t.Parallel()
				text := read(t, file)
				if !strings.Contains(text, m.old) {
					t.Fatalf("there is no %q to change", m.old)
				}
				if err := of.check(strings.Replace(text, m.old, m.new, 1)); err == nil || !strings.Contains(err.Error(), m.want) {
					t.Errorf("%v: that does not say %q", err, m.want)
				}
			})
		}
	}
}
