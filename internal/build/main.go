// Build builds a Caddy from an xcaddy.json, which is an xcaddy.Builder in JSON. It is a module of its own, so that
// xcaddy is no dependency of the plugin.
//
//	go run . <xcaddy.json> <output>
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/caddyserver/xcaddy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: build <xcaddy.json> <output>")
		os.Exit(2)
	}
	if err := build(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func build(ctx context.Context, config, output string) error {
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
