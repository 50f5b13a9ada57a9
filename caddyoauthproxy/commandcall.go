package caddyoauthproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
)

// The exit codes of the commands, beside 0.
const (
	exitFailed      = 1 // it could not be done, or problems were found
	exitUsage       = 2 // what was asked for makes no sense
	exitNotFound    = 3 // there is nothing of that id
	exitUnreachable = 4 // there is no gateway to ask
)

// commandError is an error with its exit code.
type commandError struct {
	code int
	err  error
}

func (e *commandError) Error() string { return e.err.Error() }
func (e *commandError) Unwrap() error { return e.err }

// badUsage says what makes no sense.
func badUsage(format string, args ...any) error {
	return &commandError{exitUsage, fmt.Errorf(format, args...)}
}

// call is one run of a command that asks the admin endpoint.
type call struct {
	caddycmd.Flags
	ctx context.Context
	out io.Writer
}

// notes are for people, beside what is printed.
func (c *call) notes() io.Writer { return &safeWriter{to: os.Stderr} }

// operate makes a command of a function. What it prints cannot move the cursor, whoever wrote it.
func operate(f func(*call) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
			out := &safeWriter{to: os.Stdout}
			err := f(&call{fl, context.Background(), out})
			if flushed := out.flush(); err == nil {
				err = flushed
			}
			return exitCode(err)
		})(cmd, args)
	}
}

// exitCode is that of an error, whose text is made fit for a terminal.
func exitCode(err error) (int, error) {
	if err == nil {
		return 0, nil
	}
	code := exitFailed
	if e, ok := errors.AsType[*commandError](err); ok {
		code = e.code
	}
	return code, errors.New(console.Clean(err.Error(), 4000))
}

// usage gives the arguments of a command that are wrong the exit code of bad usage.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return wrongUsage(cmd, check(cmd, args)) }
}

func wrongUsage(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) {
		return exitCode(badUsage("%w; see caddy oauth-proxy %s --help", err, cmd.Name()))
	})(cmd, nil)
}

// refusal is what the admin endpoint answers in place of what was asked for: in the form of the API, or in Caddy's.
type refusal struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

// ask sends a request to the admin API, with a body as JSON if there is one, and reads what it answers, if it answers anything.
func (c *call) ask(method, path string, query url.Values, body, answer any) error {
	resp, err := c.open(method, path, query, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("answer of the admin endpoint: %w", err)
	}
	return nil
}

// open is ask for an answer that the caller reads, and closes.
func (c *call) open(method, path string, query url.Values, body any) (*http.Response, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(c.String("address"), nil, c.String("config"), c.String("adapter"))
	if err != nil {
		return nil, badUsage("admin endpoint's address: %w", err)
	}
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil || parsed.PortRangeSize() > 1 {
		return nil, badUsage("admin endpoint's address %q is none: write it like localhost:2019", address)
	}
	origin := "http://" + parsed.JoinHostPort(0)
	if parsed.IsUnixNetwork() {
		origin = "http://127.0.0.1"
		parsed.Host, _, _ = strings.Cut(parsed.Host, "|") // without the permissions of the socket
	}
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(raw)
	}
	target := origin + adminPrefix + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(c.ctx, method, target, content)
	if err != nil {
		return nil, badUsage("admin endpoint's address %q is none: %w", address, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !parsed.IsUnixNetwork() {
		req.Header.Set("Origin", origin)
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, parsed.Network, parsed.JoinHostPort(0))
	}}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, &commandError{exitUnreachable, fmt.Errorf("no Caddy answers at %s: %w; if its admin endpoint is elsewhere, name it with --address, or the config file with --config", address, err)}
	}
	if resp.StatusCode >= http.StatusBadRequest {
		defer resp.Body.Close()
		return nil, refusedBy(address, resp)
	}
	return resp, nil
}

// refusedBy reads an answer that is none.
func refusedBy(address string, resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("HTTP %d: %w", resp.StatusCode, err)
	}
	var r refusal
	if json.Unmarshal(raw, &r) != nil || r.Error == "" { // a Caddy without this plugin knows no such path
		return &commandError{exitUnreachable, fmt.Errorf("the Caddy at %s has no admin API of oauth_proxy (HTTP %d)", address, resp.StatusCode)}
	}
	text := r.Description
	if text == "" {
		text = r.Error
	}
	code := exitFailed
	switch resp.StatusCode {
	case http.StatusBadRequest:
		code = exitUsage
	case http.StatusNotFound:
		code = exitNotFound
	case http.StatusServiceUnavailable:
		code = exitUnreachable
	}
	return &commandError{code, errors.New(text)}
}
