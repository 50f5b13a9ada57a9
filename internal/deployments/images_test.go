package deployments

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// image is a recipe, and the directory that is handed over with it.
type image struct{ file, context string }

var images = []image{
	{root + "/Containerfile", root},
	{cluster + "/Dockerfile", cluster},
	{single + "/Dockerfile", single},
}

// handed are the files of a context that a build gets to see.
func handed(ignore string, there fs.FS) ([]string, error) {
	patterns, err := ignorefile.ReadAll(strings.NewReader(ignore))
	if err != nil {
		return nil, err
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, err
	}
	var files []string
	err = fs.WalkDir(there, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		ignored, err := matcher.MatchesOrParentMatches(p)
		if !ignored {
			files = append(files, p)
		}
		return err
	})
	return files, err
}

// checkImage reads a recipe as docker build does before it builds, and finds what would only fail there: variables that nobody declares, stages and files that are none.
// In expand are the values of arguments that docker build gives.
func checkImage(text string, files []string, expand map[string]string) error {
	parsed, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return err
	}
	if len(parsed.Warnings) > 0 {
		return fmt.Errorf("%+v", parsed.Warnings)
	}
	stages, arguments, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return err
	}
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	lex := shell.NewLex(parsed.EscapeToken)

	// What is declared in front of the first stage, and the platforms, are known to FROM; a stage knows what it declares.
	global := []string{"BUILDPLATFORM=linux/amd64"}
	declared := func(args []instructions.KeyValuePairOptional) (list []string) {
		for _, a := range args {
			value := expand[a.Key]
			if value == "" && a.Value != nil {
				value = *a.Value
			}
			list = append(list, a.Key+"="+value)
		}
		return list
	}
	for _, a := range arguments {
		global = append(global, declared(a.Args)...)
	}
	word := func(line, text string, known []string) string {
		result, err := lex.ProcessWordWithMatches(text, shell.EnvsFromSlice(known))
		if err != nil {
			fault("%s: %w", line, err)
		}
		for name := range result.Unmatched {
			fault("%s: no ARG declares %s", line, name)
		}
		return result.Result
	}
	names := make([]string, 0, len(stages))
	user := ""
	for _, stage := range stages {
		word(stage.OrigCmd+" "+stage.BaseName, stage.BaseName, global)
		word(stage.OrigCmd+" "+stage.Platform, stage.Platform, global)
		var known []string
		user = ""
		for _, command := range stage.Commands {
			switch command := command.(type) {
			case *instructions.ArgCommand:
				known = append(known, declared(command.Args)...)
			case *instructions.EnvCommand:
				for _, kv := range command.Env {
					known = append(known, kv.Key+"="+word(command.String(), kv.Value, known))
				}
			case *instructions.LabelCommand:
				for _, kv := range command.Labels {
					word(command.String(), kv.Value, known)
				}
			case *instructions.UserCommand:
				user = command.User
			case *instructions.CopyCommand:
				if command.From != "" {
					if !slices.Contains(names, command.From) {
						fault("%s: there is no stage %s before it", command, command.From)
					}
					continue
				}
				for _, source := range command.SourcePaths {
					pattern := path.Clean(word(command.String(), source, known))
					if !slices.ContainsFunc(files, func(f string) bool { ok, err := path.Match(pattern, f); return ok && err == nil }) {
						fault("%s: %s is not among what is handed over, %v", command, pattern, files)
					}
				}
			}
		}
		names = append(names, stage.Name)
	}
	if user != "10001:10001" {
		fault("the image runs as %q", user)
	}
	return errors.Join(errs...)
}

// released is a checkout after make release, which calls programs as the Makefile has it.
func released(t *testing.T, version string) fs.FS {
	t.Helper()
	makefile := read(t, root, "Makefile")
	if !strings.Contains(makefile, `name="caddy_$(VERSION)_$${platform%/*}_$${platform#*/}"; file="$$name"`) {
		t.Fatal("the Makefile calls programs otherwise than this test")
	}
	there := fstest.MapFS{"go.mod": {}, "Containerfile": {}, "secrets": {}, "dist/LICENSE": {}, "dist/SHA256SUMS": {}}
	for platform := range strings.FieldsSeq(regexp.MustCompile(`(?m)^PLATFORMS \?= (.+)$`).FindStringSubmatch(makefile)[1]) {
		name := "dist/caddy_" + version + "_" + strings.ReplaceAll(platform, "/", "_")
		there[name], there[name+".cdx.json"] = &fstest.MapFile{}, &fstest.MapFile{}
	}
	return there
}

// build checks an image as docker build would find it, for both architectures that there are programs for.
func (i image) build(t *testing.T, text string) error {
	t.Helper()
	there := os.DirFS(i.context)
	if i.context == root {
		there = released(t, "v1.2.3")
	}
	files, err := handed(read(t, i.context, ".dockerignore"), there)
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.Contains(f, "secret") {
			return fmt.Errorf("%s gets into the image", f)
		}
	}
	var errs []error
	for _, architecture := range []string{"amd64", "arm64"} {
		errs = append(errs, checkImage(text, files, map[string]string{"VERSION": "v1.2.3", "TARGETARCH": architecture}))
	}
	return errors.Join(errs...)
}

func TestDockerTakesTheRecipesOfImages(t *testing.T) {
	t.Parallel()
	for _, i := range images {
		if err := i.build(t, read(t, i.file)); err != nil {
			t.Errorf("%s: %v", i.file, err)
		}
	}
}

// Caddy's image for builders gives a file capability to what it builds, which COPY keeps. Where neither that capability may be had nor any gained, as in these deployments,
// Linux does not start such a program: "operation not permitted".
func TestProgramsOfImagesHaveNoFileCapability(t *testing.T) {
	t.Parallel()
	for _, i := range images {
		text := read(t, i.file)
		if strings.Contains(text, "-builder") && !regexp.MustCompile(`(?m)^ENV XCADDY_SETCAP=0\n(.*\n)*?RUN xcaddy build`).MatchString(text) {
			t.Errorf("%s: what xcaddy builds has a file capability", i.file)
		}
		if final := text[strings.LastIndex(text, "\nFROM "):]; !strings.HasPrefix(final, "\nFROM scratch\n") && !strings.Contains(final, "\nRUN rm /usr/bin/caddy") {
			t.Errorf("%s: the image keeps Caddy's own program", i.file)
		}
	}
}

func TestMistakesInRecipesAreFound(t *testing.T) {
	t.Parallel()
	for i, mutations := range map[image][]mutation{
		images[0]: {
			{"an instruction that is none", "EXPOSE ", "EXPOSES ", "unknown instruction"},
			{"a flag that is none", "COPY --chmod=755", "COPY --mode=755", "unknown flag"},
			{"no such program", "dist/caddy_${VERSION}_linux", "dist/caddy-${VERSION}-linux", "not among what is handed over"},
			{"what is ignored", "COPY --chmod=755 dist/caddy_${VERSION}_linux_${TARGETARCH}", "COPY --chmod=755 dist/SHA256SUMS", "not among what is handed over"},
			{"a stage that is none", "--from=base /etc", "--from=caddy /etc", "no stage caddy"},
			{"a variable nobody declares", "ARG TARGETARCH\n", "", "no ARG declares TARGETARCH"},
			{"a user with rights", "USER 10001:10001", "USER root", "runs as"},
		},
		images[1]: {
			{"no such file", "COPY Caddyfile", "COPY caddyfile", "not among what is handed over"},
			{"what is ignored", "COPY Caddyfile", "COPY compose.yaml", "not among what is handed over"},
		},
		images[2]: {{"a version nobody declares", "FROM caddy:${CADDY_VERSION}\n", "FROM caddy:${VERSION}\n", "no ARG declares VERSION"}},
	} {
		for _, m := range mutations {
			t.Run(i.file+", "+m.name, func(t *testing.T) {
				t.Parallel()
				if err := i.build(t, m.apply(t, read(t, i.file))); err == nil || !strings.Contains(err.Error(), m.want) {
					t.Errorf("%v: that does not say %q", err, m.want)
				}
			})
		}
	}
}
