package docs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// recorder has bash find no program at all, and write down what it should have run, in the words that it would have given to it.
const recorder = `
command_not_found_handle() { local IFS=$'\x1f'; printf '%s\x1e' "$*" >>record; }
cd() { :; }
`

// commandsOf are the commands of a script, without those that are bash's own.
func commandsOf(t *testing.T, script string) (commands [][]string, err error) {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("bash is not installed")
		}
		t.Skip("bash is not installed")
	}
	script = regexp.MustCompile(`>\s*/[\w./-]+`).ReplaceAllString(script, ">written") // nothing is written but here
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "script"), []byte(recorder+script), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bash, "script")
	cmd.Dir, cmd.Env = dir, []string{"PATH=/nowhere"}
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "script: line") {
		return nil, fmt.Errorf("bash: %w: %s", err, out)
	}
	record, err := os.ReadFile(filepath.Join(dir, "record"))
	if err != nil {
		return nil, errors.New("there is no command in it")
	}
	for command := range strings.SplitSeq(strings.TrimSuffix(string(record), "\x1e"), "\x1e") {
		commands = append(commands, strings.Split(command, "\x1f"))
	}
	return commands, nil
}

func checkShell(t *testing.T, b fenced) error {
	t.Helper()
	commands, err := commandsOf(t, b.text)
	for _, args := range commands {
		if problem := checkCommand(t, b, args); problem != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", strings.Join(args, " "), problem))
		}
	}
	return err
}

// checkConsole reads the lines behind a $, and those that they go on in.
func checkConsole(t *testing.T, b fenced) error {
	t.Helper()
	var script strings.Builder
	goesOn := false
	for line := range strings.Lines(b.text) {
		command, begins := strings.CutPrefix(line, "$ ")
		if begins || goesOn {
			script.WriteString(command)
			goesOn = strings.HasSuffix(command, "\\\n")
		}
	}
	b.text = script.String()
	return checkShell(t, b)
}

// others are programs of other people, whose arguments are theirs.
var others = []string{"claude", "createdb", "date", "git", "jq", "npx", "openssl", "pg_dump", "pg_restore", "sed", "sudo", "tr", "cat"}

// checkCommand says what is wrong with a command.
func checkCommand(t *testing.T, b fenced, args []string) error {
	t.Helper()
	module := group(t, `^module (\S+)$`, read(t, "go.mod"))
	for _, arg := range args {
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "https://"), "@")
		if strings.HasPrefix(name, path.Dir(module)+"/") && name != module {
			return fmt.Errorf("%s is not the module", name)
		}
	}
	switch program := args[0]; program {
	case "make":
		return checkMake(t, args[1:])
	case "caddy":
		return checkCaddy(b, args[1:])
	case "go":
		return checkGoCommand(t, args[1:])
	case "python3":
		script, err := os.ReadFile(filepath.Join("..", args[1]))
		if err != nil {
			return err
		}
		for _, flag := range args[2:] {
			if strings.HasPrefix(flag, "--") && !strings.Contains(string(script), `"`+flag+`"`) {
				return fmt.Errorf("the script knows no %s", flag)
			}
		}
	case "curl":
		return checkCurl(t, args[1:])
	case "xcaddy":
		if args[1] != "build" {
			return errors.New("xcaddy builds, and does nothing else here")
		}
	default:
		if !slices.Contains(others, program) {
			return errors.New("is this a program? Tell the test (others)")
		}
	}
	return nil
}

func checkMake(t *testing.T, args []string) error {
	t.Helper()
	for _, arg := range args {
		if name, _, sets := strings.Cut(arg, "="); sets {
			if !strings.Contains(read(t, "Makefile"), "\n"+name+" ?= ") {
				return fmt.Errorf("the Makefile has no variable %s", name)
			}
		} else if !slices.Contains(targets(t), arg) {
			return errors.New("the Makefile has no such target")
		}
	}
	return nil
}

// checkCaddy has Caddy's command line read the arguments, and does not run what they ask for.
func checkCaddy(b fenced, args []string) error {
	known, found := caddycmd.Commands()[args[0]]
	if !found || known.CobraFunc == nil {
		return fmt.Errorf("there is no command caddy %s", args[0])
	}
	root := &cobra.Command{Use: args[0]}
	known.CobraFunc(root)
	cmd, rest, err := root.Find(args[1:])
	if err != nil {
		return err
	}
	if cmd.HasSubCommands() {
		return fmt.Errorf("%s has no command %v", args[0], rest)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if err := errors.Join(cmd.ValidateRequiredFlags(), cmd.ValidateArgs(cmd.Flags().Args())); err != nil {
		return err
	}
	if config := cmd.Flag("config"); config != nil && config.Value.String() != "" && !filepath.IsAbs(config.Value.String()) {
		_, err = os.Stat(filepath.Join("..", path.Dir(b.page), config.Value.String()))
	}
	return err
}

// checkGoCommand looks for the folders that the go command is given, and in them for what -run and -bench name.
func checkGoCommand(t *testing.T, args []string) error {
	t.Helper()
	var folders []string
	patterns, slow := make(map[string]string), false
	for i, arg := range args {
		switch {
		case strings.HasPrefix(arg, "./"):
			folders = append(folders, arg)
		case i > 0 && args[i-1] == "-run" && arg != "^$":
			patterns["Test"] = arg
		case i > 0 && args[i-1] == "-bench":
			patterns["Benchmark"] = arg
		case strings.HasPrefix(arg, "-tags="):
			slow = slices.Contains(strings.Split(strings.TrimPrefix(arg, "-tags="), ","), "slow")
		}
	}
	if len(folders) == 0 {
		return errors.New("of which packages?")
	}
	for _, folder := range folders {
		sources, err := filepath.Glob(filepath.Join("..", strings.TrimSuffix(folder, "/..."), "*.go"))
		if err != nil || len(sources) == 0 {
			return fmt.Errorf("there is no package %s", folder)
		}
		functions := make(map[string][]string)
		for _, source := range sources {
			text := read(t, strings.TrimPrefix(filepath.ToSlash(source), "../"))
			if strings.HasPrefix(text, "//go:build slow\n") && !slow {
				continue
			}
			for _, m := range regexp.MustCompile(`(?m)^func ((Test|Benchmark)\w+)\(`).FindAllStringSubmatch(text, -1) {
				functions[m[2]] = append(functions[m[2]], m[1])
			}
		}
		for kind, pattern := range patterns {
			if !slices.ContainsFunc(functions[kind], regexp.MustCompile(pattern).MatchString) {
				return fmt.Errorf("nothing in %s, as it is built here, is like %s", folder, pattern)
			}
		}
	}
	return nil
}

// checkCurl looks for the route among those of openapi.yaml. Caddy's own admin endpoint has those of the admin API below /oauth_proxy.
func checkCurl(t *testing.T, args []string) error {
	t.Helper()
	method, asked := "", ""
	for i, arg := range args {
		value := ""
		if i+1 < len(args) {
			value = args[i+1]
		}
		switch {
		case arg == "-X":
			method = value
		case arg == "-d" || arg == "--json":
			if method == "" {
				method = "POST"
			}
			if strings.HasPrefix(value, "{") && !json.Valid([]byte(value)) {
				return fmt.Errorf("the body is not JSON: %s", value)
			}
		case strings.HasPrefix(arg, "https://") || strings.HasPrefix(arg, "localhost:"):
			asked = "//" + strings.TrimPrefix(arg, "https://")
		}
	}
	if method == "" {
		method = "GET"
	}
	target, err := url.Parse(asked)
	if err != nil || target.Host == "" {
		return fmt.Errorf("asks nobody: %w", err)
	}
	route := target.Path
	if target.Host == "localhost:2019" {
		route = strings.Replace(route, "/oauth_proxy/", "/admin/oauth/", 1)
	}
	if regexp.MustCompile(`^/[a-z]+/mcp(/|$)`).MatchString(route) { // the address of a proxy
		return nil
	}
	for known := range described(t) {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(known), `\{\}`, `[^/]+`)
		if regexp.MustCompile("^" + pattern + "$").MatchString(method + " " + route) {
			return nil
		}
	}
	return fmt.Errorf("there is no %s %s", method, route)
}
