package docs

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// read is the text of a file of the repository.
func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// files finds those of the repository that fit, by their paths in it. What was installed, built or started there is not looked at.
func files(t *testing.T, fits func(path string) bool) []string {
	t.Helper()
	var found []string
	err := fs.WalkDir(os.DirFS(".."), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || path == "bin" || path == "dist" || hidden(path)) {
			return filepath.SkipDir
		}
		if !d.IsDir() && fits(path) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil || len(found) == 0 {
		t.Fatalf("%v, %v", found, err)
	}
	return found
}

// hidden folders are tools' own, but for those that the repository has.
func hidden(dir string) bool {
	return path.Base(dir) != "." && strings.HasPrefix(path.Base(dir), ".") && !slices.Contains([]string{".github", ".ci", ".githooks"}, dir)
}

// document decodes the first document of a YAML file.
func document(t *testing.T, path string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, path)), into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// group is the first group of a pattern in a text.
func group(t *testing.T, pattern, text string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)` + pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("nothing is like %s", pattern)
	}
	return m[1]
}

func TestEveryYAMLFileParses(t *testing.T) {
	t.Parallel()
	found := files(t, func(path string) bool { return strings.HasSuffix(path, ".yml") || strings.HasSuffix(path, ".yaml") })
	for _, path := range append(found, ".golangci.yml") {
		d := yaml.NewDecoder(strings.NewReader(read(t, path)))
		for n := 0; ; n++ {
			var v map[string]any // what stands there twice is an error
			if err := d.Decode(&v); errors.Is(err, io.EOF) && n > 0 {
				break
			} else if err != nil {
				t.Errorf("%s: %v", path, err)
				break
			}
		}
	}
	for _, want := range []string{".github/dependabot.yml", ".github/workflows/ci.yml", ".github/workflows/release.yml", ".github/ISSUE_TEMPLATE/bug.yml"} {
		if !slices.Contains(found, want) {
			t.Errorf("%s was not looked at", want)
		}
	}
}

// Whoever adds a module adds it there, or nobody hears of its updates.
func TestDependabotKnowsEveryModule(t *testing.T) {
	t.Parallel()
	var config struct {
		Updates []struct {
			Ecosystem   string   `yaml:"package-ecosystem"`
			Directory   string   `yaml:"directory"`
			Directories []string `yaml:"directories"`
		} `yaml:"updates"`
	}
	document(t, ".github/dependabot.yml", &config)
	watched := make(map[string][]string)
	for _, u := range config.Updates {
		dirs := u.Directories
		if u.Directory != "" {
			dirs = append(dirs, u.Directory)
		}
		watched[u.Ecosystem] = append(watched[u.Ecosystem], dirs...)
	}
	for ecosystem, named := range map[string]string{"gomod": "go.mod", "npm": "package.json"} {
		var want []string
		for _, file := range files(t, func(p string) bool { return path.Base(p) == named }) {
			want = append(want, path.Join("/", path.Dir(file)))
		}
		got := watched[ecosystem]
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: dependabot looks at %v, there are %v", ecosystem, got, want)
		}
	}
	if !slices.Equal(watched["github-actions"], []string{"/"}) {
		t.Error("nobody looks at the actions of the workflows")
	}
}

// targets are those of the Makefile.
func targets(t *testing.T) []string {
	t.Helper()
	return strings.Fields(group(t, `^\.PHONY: (.+)$`, read(t, "Makefile")))
}

func TestMakeHasEveryTargetThatIsNamed(t *testing.T) {
	t.Parallel()
	there, makefile := targets(t), read(t, "Makefile")
	for _, target := range there {
		if !regexp.MustCompile(`(?m)^` + target + `:.* ## `).MatchString(makefile) {
			t.Errorf("make help does not know %s", target)
		}
	}
	named, everywhere := 0, regexp.MustCompile("(?m)(?:`|^ *(?:- run: )?|&& |[A-Z]+=\\S+ )make ([a-z][a-z-]*)(?:`|\\s|$)")
	for _, file := range files(t, func(p string) bool {
		return strings.HasSuffix(p, ".md") || strings.HasPrefix(p, ".github/") || strings.HasPrefix(p, ".ci/")
	}) {
		for _, m := range everywhere.FindAllStringSubmatch(read(t, file), -1) {
			named++
			if !slices.Contains(there, m[1]) {
				t.Errorf("%s: there is no make %s", file, m[1])
			}
		}
	}
	if named < 20 {
		t.Errorf("only %d were found: the test is no good", named)
	}
}

func TestPlatformsOfAReleaseAreThoseOfItsPage(t *testing.T) {
	t.Parallel()
	built := strings.Fields(group(t, `^PLATFORMS \?= (.+)$`, read(t, "Makefile")))
	var told []string
	for _, r := range table(t, read(t, "docs/releasing.md"), "What is in a release") {
		told = append(told, r.id)
		name := "`caddy_vX.Y.Z_" + strings.ReplaceAll(r.id, "/", "_")
		program := name + "`"
		if strings.HasPrefix(r.id, "windows/") {
			program = name + ".exe`"
		}
		if line := "| " + r.id + " | " + program + " | " + name + ".cdx.json` |"; !strings.Contains(read(t, "docs/releasing.md"), line) {
			t.Errorf("there is no row %s", line)
		}
	}
	if !slices.Equal(built, told) || len(built) < 6 {
		t.Errorf("make release builds %v, docs/releasing.md tells of %v", built, told)
	}
}

// Who builds a release again compares all of SHA256SUMS, and lists of parts are in it.
func TestListsOfPartsSayNothingOfWhenAndWhereTheyWereMade(t *testing.T) {
	t.Parallel()
	makefile := read(t, "Makefile")
	made := regexp.MustCompile(`\$\(CYCLONEDX\) bin (.*)`).FindAllStringSubmatch(makefile, -1)
	if len(made) != 2 {
		t.Errorf("lists are made at %d places, and this test knows of two", len(made))
	}
	for _, m := range made {
		if !strings.Contains(m[1], " -noserial ") || !strings.Contains(m[1], " -notimestamp ") {
			t.Errorf("%s: a serial number or the time would be in it", m[0])
		}
	}
	if !strings.Contains(makefile, "cd internal/supply && GOFLAGS=-trimpath ") {
		t.Error("the tool that lists parts, whose checksum is in its lists, differs by where its modules lie")
	}
}

func TestVersionsThatReleasesArePromisedForAreThoseOfGoMod(t *testing.T) {
	t.Parallel()
	mod, page := read(t, "go.mod"), read(t, "docs/releasing.md")
	caddy := group(t, `^\tgithub\.com/caddyserver/caddy/v2 (v\S+)$`, mod)
	release := group(t, `^go (1\.\d+)`, mod)
	for _, want := range []string{"requires, today " + caddy + ",", "go.mod, today " + release + ",", "xcaddy build " + caddy + " --with"} {
		if !strings.Contains(page, want) {
			t.Errorf("docs/releasing.md does not say %q", want)
		}
	}
	for _, workflow := range []string{"ci", "release"} {
		if got := group(t, `^ +go-version: "(.+?)"`, read(t, ".github/workflows/"+workflow+".yml")); got != release {
			t.Errorf("%s.yml takes Go %s, go.mod wants %s", workflow, got, release)
		}
	}
	for file, want := range map[string]string{
		"Containerfile":                        "\nFROM --platform=$BUILDPLATFORM caddy:%s AS base\n",
		"examples/cluster/deploy/Dockerfile":   "\nARG CADDY_VERSION=%s\n",
		"examples/cluster/deploy/compose.yaml": " image: caddy:%s\n",
		"examples/deploy/Dockerfile":           "\nARG CADDY_VERSION=%s\n",
	} {
		if want = fmt.Sprintf(want, strings.TrimPrefix(caddy, "v")); !strings.Contains(read(t, file), want) {
			t.Errorf("%s does not have %q", file, want)
		}
	}
}

func TestImageHasNoShellAndNoRights(t *testing.T) {
	t.Parallel()
	text := read(t, "Containerfile")
	_, image, found := strings.Cut(text, "\nFROM scratch\n")
	if !found || strings.Contains(image, "\nFROM ") || strings.Contains(image, "\nRUN ") {
		t.Error("there is more in the image than was put there")
	}
	for _, want := range []string{"\nUSER 10001:10001\n", "\nVOLUME [\"/data\", \"/config\"]\n", " XDG_DATA_HOME=/data "} {
		if !strings.Contains(image, want) {
			t.Errorf("the image lacks %q", want)
		}
	}
	command := group(t, `^HEALTHCHECK .*CMD \["/usr/bin/caddy", "oauth-proxy", "([a-z-]+)"\]$`, image)
	if !regexp.MustCompile("(?m)^\\|[^|]*`" + command + "`").MatchString(read(t, "docs/admin.md")) {
		t.Errorf("docs/admin.md does not know the command %s", command)
	}
	if program := group(t, `^COPY --chmod=755 dist/(\S+) /usr/bin/caddy$`, image); program != "caddy_${VERSION}_linux_${TARGETARCH}" {
		t.Errorf("the image is made of %s, which make release does not build", program)
	}
	if read(t, ".dockerignore") != "*\n!dist/caddy_*_linux_*\n" {
		t.Error("more than the programs gets to the image")
	}
}

// A workflow may write where it says so, and nowhere does it know a secret.
func TestWorkflowsHaveNoMoreRightsThanTheyNeed(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, func(p string) bool { return strings.HasPrefix(p, ".github/workflows/") }) {
		text := read(t, file)
		if strings.Contains(text, "secrets.") || strings.Contains(text, "pull_request_target") {
			t.Errorf("%s: a workflow needs no secret, and runs nothing of strangers with rights", file)
		}
		var workflow struct {
			Permissions map[string]string `yaml:"permissions"`
			Jobs        map[string]struct {
				Permissions map[string]string `yaml:"permissions"`
				Steps       []struct {
					Uses string            `yaml:"uses"`
					With map[string]string `yaml:"with"`
				} `yaml:"steps"`
			} `yaml:"jobs"`
		}
		document(t, file, &workflow)
		if len(workflow.Permissions) != 1 || workflow.Permissions["contents"] != "read" {
			t.Errorf("%s: permissions are %v", file, workflow.Permissions)
		}
		for name, job := range workflow.Jobs {
			for _, step := range job.Steps {
				if action, version, _ := strings.Cut(step.Uses, "@"); action != "" && (!strings.HasPrefix(action, "actions/") || version == "") {
					t.Errorf("%s: %s is somebody else's", file, step.Uses)
				}
				if strings.HasPrefix(step.Uses, "actions/checkout@") && (step.With["persist-credentials"] != "false" || job.Permissions != nil) {
					t.Errorf("%s: what job %s builds could write", file, name)
				}
			}
		}
	}
}

// Caddy's website reads the code of plugins that are claimed there, and takes modules that are written in these ways alone.
func TestModulesAreWrittenAsTheRegistryOfCaddyReadsThem(t *testing.T) {
	t.Parallel()
	modules := 0
	dirs := make(map[string][]*ast.File)
	for _, file := range files(t, func(p string) bool {
		return strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, "_test.go") && !strings.HasPrefix(p, "internal/") && !strings.HasPrefix(p, "examples/")
	}) {
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", file), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		dirs[path.Dir(file)] = append(dirs[path.Dir(file)], parsed)
	}
	for dir, parsed := range dirs {
		registered, written := make(map[string]bool), make(map[string]bool)
		for _, file := range parsed {
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					if f, ok := n.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "RegisterModule" {
						name := registers(n)
						if name == "" {
							t.Errorf("%s: RegisterModule wants Module{} or new(Module), of a type of the package", dir)
						}
						registered[name] = true
					}
				case *ast.FuncDecl:
					if n.Name.Name == "CaddyModule" && n.Recv != nil {
						name, id := method(n)
						if id == "" {
							t.Errorf("%s: CaddyModule of %s returns something else than a caddy.ModuleInfo with an ID that stands there", dir, name)
						}
						written[name] = true
						modules++
					}
				}
				return true
			})
		}
		for name := range written {
			if !registered[name] {
				t.Errorf("%s: %s has a method CaddyModule, and is not registered in its package", dir, name)
			}
		}
	}
	if modules < 10 {
		t.Errorf("only %d modules were found: the test is no good", modules)
	}
}

// registers is the name of the type that a call of RegisterModule is given.
func registers(call *ast.CallExpr) string {
	if len(call.Args) != 1 {
		return ""
	}
	of := call.Args[0]
	if literal, ok := of.(*ast.CompositeLit); ok {
		of = literal.Type
	} else if made, ok := of.(*ast.CallExpr); ok && len(made.Args) == 1 {
		if f, ok := made.Fun.(*ast.Ident); !ok || f.Name != "new" {
			return ""
		}
		of = made.Args[0]
	} else {
		return ""
	}
	if name, ok := of.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}

// method is the type that a method CaddyModule is of, and the ID in what it returns.
func method(f *ast.FuncDecl) (name, id string) {
	receiver := f.Recv.List[0].Type
	if pointer, ok := receiver.(*ast.StarExpr); ok {
		receiver = pointer.X
	}
	if of, ok := receiver.(*ast.Ident); ok {
		name = of.Name
	}
	if len(f.Body.List) != 1 {
		return name, ""
	}
	returned, ok := f.Body.List[0].(*ast.ReturnStmt)
	if !ok || len(returned.Results) != 1 {
		return name, ""
	}
	info, ok := returned.Results[0].(*ast.CompositeLit)
	if !ok {
		return name, ""
	}
	for _, element := range info.Elts {
		if field, ok := element.(*ast.KeyValueExpr); ok {
			key, _ := field.Key.(*ast.Ident)
			if value, ok := field.Value.(*ast.BasicLit); ok && key != nil && key.Name == "ID" {
				return name, value.Value
			}
		}
	}
	return name, ""
}
