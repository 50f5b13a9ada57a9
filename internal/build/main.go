// Build builds a Caddy from an xcaddy.json, which is an xcaddy.Builder in JSON. It is a module of its own, so that
// xcaddy is no dependency of the plugin.
//
//	go run . [-platform <os>/<arch>] [-version <version>] <xcaddy.json> <output>
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/caddyserver/xcaddy"
)

// unreleased is the version of a plugin that is built as it lies here, by the replacements of xcaddy.json.
const unreleased = "v0.0.0"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	platform := flag.String("platform", "", "what to build for, as `os/arch`; without it, this machine")
	version := flag.String("version", unreleased, "the published version of the plugins to build; "+unreleased+" is the checkout")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: build [-platform <os>/<arch>] [-version <version>] <xcaddy.json> <output>")
		os.Exit(2)
	}
	if err := build(ctx, *platform, *version, flag.Arg(0), flag.Arg(1)); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func build(ctx context.Context, platform, version, config, output string) error {
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var b xcaddy.Builder
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return fmt.Errorf("%s: %w", config, err)
	}
	if platform != "" {
		goos, goarch, ok := strings.Cut(platform, "/")
		if !ok {
			return fmt.Errorf("platform %s: it is written as linux/amd64", platform)
		}
		// In the environment, because xcaddy looks only there for whom a Windows resource is.
		for name, value := range map[string]string{"GOOS": goos, "GOARCH": goarch} {
			if err := os.Setenv(name, value); err != nil {
				return err
			}
		}
	}
	if version != unreleased {
		// What is published is built as anybody else builds it. With a replacement, `caddy upgrade` and `caddy add-package` would refuse.
		for i := range b.Plugins {
			b.Plugins[i].Version = version
		}
		b.Replacements = nil
	}
	// A relative replacement is meant from where the file is; xcaddy builds somewhere else.
	root, err := filepath.Abs(filepath.Dir(config))
	if err != nil {
		return err
	}
	for i, r := range b.Replacements {
		if target := r.New.String(); strings.HasPrefix(target, ".") {
			b.Replacements[i] = xcaddy.NewReplace(r.Old.String(), filepath.Join(root, target))
		}
	}
	if output, err = filepath.Abs(output); err != nil {
		return err
	}
	// What Caddy's own releases leave out: storage drivers that nobody asked for.
	b.BuildFlags = "-trimpath -ldflags '-w -s' -tags nobadger,nomysql,nopgx"
	return b.Build(ctx, output)
}
