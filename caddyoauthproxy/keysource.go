package caddyoauthproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// KeySource is what a module in the namespace oauth_proxy.keys implements: a place outside the configuration from which an encryption key comes.
type KeySource interface {
	// EncryptionKey returns the key as text: 32 random bytes in base64 or hex, with at most one newline behind them. It is called when a configuration starts, so at
	// every reload, and by commands that open the vault themselves; never while a configuration is only validated. It must return before ctx ends. An error keeps
	// the configuration from starting; it is logged and shown, so it names the place and says what to do, and never holds the key.
	EncryptionKey(ctx context.Context) (string, error)
}

const (
	// keySources is the namespace of key sources.
	keySources = "oauth_proxy.keys"

	// keyTimeout bounds how long a source may take for a key.
	keyTimeout = 10 * time.Second
)

// configuredKey is an encryption key of a configuration that nobody has asked for yet.
type configuredKey struct {
	name   string // the placeholder, or the name of the source
	source KeySource
}

// placeholderKey is a key behind a placeholder.
type placeholderKey string

// EncryptionKey implements KeySource.
func (p placeholderKey) EncryptionKey(context.Context) (string, error) {
	return resolveSecret(string(p))
}

// loadKeys makes the sources of encryption keys, and says everything that is wrong with their configuration. Placeholders are resolved, as all are when a configuration is
// checked; no source is asked.
func loadKeys(parent caddy.Context, elements []json.RawMessage) (keys []configuredKey, unload func(), err error) {
	parent.Context = context.WithoutCancel(parent.Context)
	loading, unload := caddy.NewContext(parent)
	var errs []error
	for i, element := range elements {
		key, err := loadKey(loading, element)
		if err != nil {
			errs = append(errs, fmt.Errorf("encryption_key %d: %w", i+1, err))
		}
		keys = append(keys, key)
	}
	if len(errs) > 0 {
		unload()
		return nil, nil, errors.Join(errs...)
	}
	return keys, unload, nil
}

// loadKey makes one source. Errors do not quote what should have been a placeholder: it may be the key.
func loadKey(ctx caddy.Context, element json.RawMessage) (configuredKey, error) {
	var text string
	if json.Unmarshal(element, &text) == nil && text != "" {
		_, err := resolveKey(text)
		return configuredKey{text, placeholderKey(text)}, err
	}
	var settings map[string]json.RawMessage
	var name string
	if json.Unmarshal(element, &settings) != nil || json.Unmarshal(settings["source"], &name) != nil || name == "" {
		return configuredKey{}, fmt.Errorf("must be a placeholder, {env.NAME} or {file./absolute/path}, or an object whose source is one of %s", keySourceNames())
	}
	delete(settings, "source")
	raw, err := json.Marshal(settings)
	if err != nil {
		return configuredKey{}, err
	}
	if _, err := caddy.GetModule(keySources + "." + name); err != nil {
		return configuredKey{}, fmt.Errorf("source %q is unknown; built in are %s", name, keySourceNames())
	}
	mod, err := ctx.LoadModuleByID(keySources+"."+name, raw)
	if err != nil {
		return configuredKey{}, err
	}
	source, ok := mod.(KeySource)
	if !ok {
		return configuredKey{}, fmt.Errorf("module %T is not a key source", mod)
	}
	return configuredKey{name, source}, nil
}

// keySourceNames lists the key sources that are built in.
func keySourceNames() string {
	modules := caddy.GetModules(keySources)
	names := make([]string, 0, len(modules))
	for _, m := range modules {
		names = append(names, m.ID.Name())
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// askKeys asks every source of encryption keys for its key, in order.
func askKeys(ctx context.Context, parent caddy.Context, elements []json.RawMessage) ([]tokenstore.RootKey, error) {
	configured, unload, err := loadKeys(parent, elements)
	if err != nil {
		return nil, err
	}
	defer unload()
	keys := make([]tokenstore.RootKey, 0, len(configured))
	for i, c := range configured {
		key, err := c.ask(ctx)
		if err != nil {
			return nil, fmt.Errorf("encryption_key %d: %w", i+1, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (c configuredKey) ask(ctx context.Context) (tokenstore.RootKey, error) {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	text, err := c.source.EncryptionKey(ctx)
	if err != nil {
		return tokenstore.RootKey{}, err
	}
	key, err := tokenstore.ParseRootKey(text)
	if err != nil {
		return tokenstore.RootKey{}, fmt.Errorf("%s: %w", c.name, err)
	}
	return key, nil
}
