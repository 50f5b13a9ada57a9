package caddyoauthproxy

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

var secretPlaceholder = regexp.MustCompile(`^\{(env|file)\.[^{}]+\}$`)

// checkSecret accepts a secret only as a placeholder. A literal would show in Caddy's config API and autosave file; {$VAR} is
// a literal too by the time it is seen here, because the Caddyfile expands it first.
func checkSecret(text string) error {
	if secretPlaceholder.MatchString(text) {
		return nil
	}
	return errors.New("must be a placeholder, {env.NAME} or {file./absolute/path}: a literal secret, and {$NAME} too, would show in Caddy's config API and its autosave file")
}

// resolveSecret replaces the placeholder, and fails where there is nothing behind it.
func resolveSecret(text string) (string, error) {
	if err := checkSecret(text); err != nil {
		return "", err
	}
	value, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		return "", fmt.Errorf("%s is not set or cannot be read by the user that Caddy runs as", text)
	}
	return value, nil
}

func resolveKey(text string) (tokenstore.RootKey, error) {
	value, err := resolveSecret(text)
	if err != nil {
		return tokenstore.RootKey{}, err
	}
	key, err := tokenstore.ParseRootKey(value)
	if err != nil {
		return tokenstore.RootKey{}, fmt.Errorf("%s: %w", text, err)
	}
	return key, nil
}
