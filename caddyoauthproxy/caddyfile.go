package caddyoauthproxy

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/authserver"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/mcpfilter"
)

func init() {
	httpcaddyfile.RegisterGlobalOption(mcpfilter.AppName, parseGlobal)
	httpcaddyfile.RegisterHandlerDirective("oauth_proxy", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("oauth_proxy", httpcaddyfile.After, "encode")
}

// parseDirective sets up the handler:
//
//	oauth_proxy [<matcher>]
func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // the directive's name
	if h.NextArg() {
		return nil, h.Errf("oauth_proxy takes no arguments, such as %q, in a site: its settings belong into the global option oauth_proxy { … } at the top of the file", h.Val())
	}
	if h.NextBlock(0) {
		return nil, h.Errf("oauth_proxy has no options, such as %q, in a site: they belong into the global option oauth_proxy { … } at the top of the file", h.Val())
	}
	if h.Option(mcpfilter.AppName) == nil {
		return nil, h.Err("oauth_proxy needs the global option oauth_proxy { … } at the top of the file, with issuer, provider and proxy")
	}
	return new(Handler), nil
}

// parseGlobal sets up the app from the global option:
//
//	oauth_proxy {
//		issuer               <url>
//		vault                <module> …
//		encryption_key       <placeholder> [<older placeholder>…]
//		encryption_key       <source> …
//		access_token_ttl     <duration>
//		refresh_token_idle   <duration>
//		refresh_token_ttl    <duration>
//		refresh_grace        <duration>|off
//		code_ttl             <duration>
//		login_ttl            <duration>
//		refresh_before       <duration>
//		cleanup_interval     <duration>|off
//		retention            <duration>
//		audit                off|{ retention <duration> }
//		session_token_ttl    <duration>|off
//		signing_algorithm    ES256|RS256|EdDSA
//		signing_key_rotation <duration>|off
//		code_challenge_methods S256 [plain]
//		max_grants_per_client  <n>
//		consent              always|remember|off|off unsafe
//		rate_limit           register|authorize|login|token|client <events> <window>|off
//		metadata_documents   any|off|<host>…
//		connections          off
//		admin   { … }
//		console { … }
//		registration         [open|off|token <placeholder>…] { … }
//		client <id> { … }
//		provider <name> { … }
//		proxy <id> { … }
//	}
func parseGlobal(d *caddyfile.Dispenser, prev any) (any, error) {
	d.Next() // the option's name
	if prev != nil {
		return nil, d.Err("oauth_proxy is declared twice; put everything into one block")
	}
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	p := &parser{app: new(App), providers: make(map[string]*upstream.Provider), once: newOnce()}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := p.option(d); err != nil {
			return nil, err
		}
		if err := p.app.checkDurations(); err != nil {
			return nil, d.WrapErr(err)
		}
	}
	if err := p.finish(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: mcpfilter.AppName, Value: caddyconfig.JSON(p.app, nil)}, nil
}

// parser reads the global option. What depends on several lines is checked at the
// end, and still reported at its own line.
type parser struct {
	app       *App
	providers map[string]*upstream.Provider // made for checks alone
	once      once
	later     []func() error
}

func (p *parser) option(d *caddyfile.Dispenser) error {
	name := d.Val()
	if name != "provider" && name != "proxy" && name != "client" && name != "rate_limit" && name != "encryption_key" {
		if err := p.once.check(d); err != nil {
			return err
		}
	}
	a := p.app
	switch name {
	case "issuer":
		return oneArg(d, &a.Issuer, func(v string) error { _, err := parseIssuer(v); return err })
	case "callback_path":
		return oneArg(d, &a.CallbackPath, authserver.CheckCallbackPath)
	case "vault":
		return p.vault(d)
	case "encryption_key":
		return encryptionKeys(d, &a.EncryptionKeys)
	case "access_token_ttl":
		return duration(d, &a.AccessTokenTTL, false)
	case "refresh_token_idle":
		return duration(d, &a.RefreshTokenIdle, false)
	case "refresh_token_ttl":
		return duration(d, &a.RefreshTokenTTL, false)
	case "refresh_grace":
		return duration(d, &a.RefreshGrace, true)
	case "code_ttl":
		return duration(d, &a.CodeTTL, false)
	case "login_ttl":
		return duration(d, &a.LoginTTL, false)
	case "refresh_before":
		return duration(d, &a.RefreshBefore, false)
	case "cleanup_interval":
		return duration(d, &a.CleanupInterval, true)
	case "retention":
		return duration(d, &a.Retention, false)
	case "audit":
		return audit(d, &a.Audit)
	case "session_token_ttl":
		return duration(d, &a.SessionTokenTTL, true)
	case "signing_algorithm":
		return oneArg(d, &a.SigningAlgorithm, checkAlgorithm)
	case "signing_key_rotation":
		return duration(d, &a.SigningKeyRotation, true)
	case "consent":
		at := position(d)
		p.later = append(p.later, func() error {
			for _, proxy := range a.Proxies {
				if _, err := a.consentMode(proxy); err != nil && proxy.Consent == "" {
					return at(err)
				}
			}
			return nil
		})
		return consent(d, &a.Consent)
	case "code_challenge_methods":
		return args(d, &a.CodeChallengeMethods, func(v string) error {
			if checkChallengeMethod(v) != nil {
				return errors.New("is unknown; known are S256 and plain")
			}
			return nil
		})
	case "max_grants_per_client":
		return number(d, &a.MaxGrantsPerClient, maxGrantsPerClient)
	case "rate_limit":
		return p.rateLimit(d)
	case "metadata_documents":
		return metadataDocuments(d, &a.MetadataDocuments)
	case "registration":
		return registration(d, &a.Registration)
	case "admin":
		return p.admin(d)
	case "connections":
		return connections(d, &a.Connections)
	case "console":
		return p.console(d)
	case "client":
		return p.client(d)
	case "provider":
		return p.provider(d)
	case "proxy":
		return p.proxy(d)
	default:
		return unknown(d, "access_token_ttl", "admin", "audit", "callback_path", "cleanup_interval", "client", "code_challenge_methods", "code_ttl", "connections", "consent", "console", "encryption_key", "issuer", "login_ttl",
			"max_grants_per_client", "metadata_documents", "provider", "proxy", "rate_limit", "refresh_before", "refresh_grace", "refresh_token_idle", "refresh_token_ttl",
			"registration", "retention", "session_token_ttl", "signing_algorithm", "signing_key_rotation", "vault")
	}
}

// vault reads the vault's module name and leaves the rest of the line, and the block, to the module.
func (p *parser) vault(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name, at := d.Val(), position(d)
	id := "oauth_proxy.vaults." + name
	if _, err := caddy.GetModule(id); err != nil {
		return d.Errf("vault %q is unknown: no module %s is built in", name, id)
	}
	module, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return err
	}
	p.app.VaultRaw = caddyconfig.JSONModuleObject(module, "module", name, nil)
	if v, ok := module.(Vault); ok {
		p.later = append(p.later, func() error { return at(p.app.checkShared(v)) })
	}
	return nil
}

// finish checks what can only be known at the end of the block.
func (p *parser) finish(d *caddyfile.Dispenser) error {
	for _, check := range p.later {
		if err := check(); err != nil {
			return err
		}
	}
	switch {
	case p.app.Issuer == "":
		_, err := parseIssuer("")
		return d.WrapErr(fmt.Errorf("oauth_proxy: %w", err))
	case len(p.app.Providers) == 0:
		return d.Err("oauth_proxy: no provider: declare one, for example provider github { client_id …; client_secret {env.…} }")
	case len(p.app.Proxies) == 0:
		return d.Err("oauth_proxy: no proxy: declare one, for example proxy jira { resource https://gateway.example.com/jira/mcp }")
	}
	return nil
}
