package caddyoauthproxy

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/jackc/pgx/v5/pgconn"
)

// placeholders are those that may stand in a connection string.
var placeholders = regexp.MustCompile(`\{(env|file)\.[^{}]+\}`)

// secretSettings are the settings of a connection string that nobody may read in a config.
var secretSettings = []string{"password", "sslpassword"}

var (
	errNoConnectionString = errors.New("is neither a URL nor keywords: write it like postgres://gateway@db.example.com/oauth_proxy?sslmode=verify-full " +
		"or host=db.example.com user=gateway dbname=oauth_proxy sslmode=verify-full; in a URL, signs such as : / ? # @ and % in a name are percent-encoded")
	errLiteralPassword = errors.New("has a literal password, which would show in Caddy's config API and its autosave file: write password {file./run/secrets/pg} in the vault's block, " +
		"or the whole connection as a placeholder such as {env.DATABASE_URL}")
)

// brokenPassword finds a URL with a slash in its password, which ends the hosts: what is before it would be no port, or an @ would be in the database's name. Nobody can
// connect with it, but it would show.
var brokenPassword = regexp.MustCompile(`^postgres(ql)?://[^@/?]*(:[^@/?,\]]*[^@/?,\]0-9:][^@/?,\]]*/|/[^?]*@)`)

// checkConnection refuses a connection string with a literal password. What stands behind its placeholders is not known yet.
func checkConnection(text string) error {
	if secretPlaceholder.MatchString(text) {
		return nil
	}
	mark := 0 // some digits, which may stand for a port too, and that are nothing else in the text
	for strings.Contains(text, strconv.Itoa(mark)) {
		mark++
	}
	marked := placeholders.ReplaceAllLiteralString(text, strconv.Itoa(mark))
	secrets, err := connectionSecrets(marked)
	if err != nil {
		return err
	}
	if brokenPassword.MatchString(marked) {
		return errNoConnectionString
	}
	if slices.ContainsFunc(secrets, func(secret string) bool { return secret != strconv.Itoa(mark) }) {
		return errLiteralPassword
	}
	return nil
}

// resolveConnection replaces the placeholders of a connection string, and reads it. Errors say nothing of what it is then.
func resolveConnection(text string) (string, *pgconn.Config, error) {
	if err := checkConnection(text); err != nil {
		return "", nil, err
	}
	resolved := text
	if text != "" {
		var err error
		if resolved, err = caddy.NewReplacer().ReplaceOrErr(text, true, true); err != nil {
			return "", nil, fmt.Errorf("has a placeholder with nothing behind it: %w", err)
		}
		if _, err := connectionSecrets(resolved); err != nil {
			return "", nil, err
		}
	}
	config, err := pgconn.ParseConfig(resolved)
	switch {
	case err == nil:
		return resolved, config, nil
	case text == resolved: // which shows in the config anyway
		if cause := errors.Unwrap(err); cause != nil {
			err = cause
		}
		return "", nil, fmt.Errorf("cannot be used: %w", err)
	default:
		return "", nil, errors.New("cannot be used as its placeholders have it; try it with psql, which reads it in the same way, and see that port, sslmode and the files that it names are right")
	}
}

// connectionSecrets returns the values of the secret settings of a connection string, which is a URL or keywords as libpq reads them.
func connectionSecrets(text string) ([]string, error) {
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		if rest, ok := strings.CutPrefix(text, scheme); ok {
			return urlSecrets(rest)
		}
	}
	return keywordSecrets(text)
}

// urlSecrets reads what comes behind the scheme. Whatever is before an @ that no slash precedes is the user's.
func urlSecrets(rest string) (secrets []string, err error) {
	if end := strings.IndexAny(rest, "@/"); end >= 0 && rest[end] == '@' {
		if _, password, _ := strings.Cut(rest[:end], ":"); password != "" {
			secrets = append(secrets, password)
		}
		rest = rest[end+1:]
	}
	_, query, _ := strings.Cut(rest, "?")
	for _, parameter := range strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == '?' || r == ';' }) {
		key, value, _ := strings.Cut(parameter, "=")
		if key, err = url.PathUnescape(key); err != nil {
			return nil, errNoConnectionString
		}
		if slices.Contains(secretSettings, strings.TrimSpace(key)) && value != "" {
			secrets = append(secrets, value)
		}
	}
	return secrets, nil
}

const spaces = " \t\n\r\v\f"

// keywordSecrets reads keyword = value …, where a value may be in quotes and a backslash goes before any sign.
func keywordSecrets(text string) (secrets []string, err error) {
	for text = strings.TrimLeft(text, spaces); text != ""; text = strings.TrimLeft(text, spaces) {
		key, rest, found := strings.Cut(text, "=")
		key = strings.TrimRight(key, spaces)
		if !found || key == "" || strings.ContainsAny(key, spaces) {
			return nil, errNoConnectionString
		}
		rest = strings.TrimLeft(rest, spaces)
		quoted := strings.HasPrefix(rest, "'")
		if quoted {
			rest = rest[1:]
		}
		var value strings.Builder
		end, closed := 0, !quoted
		for ; end < len(rest); end++ {
			if rest[end] == '\\' {
				if end++; end == len(rest) {
					break
				}
			} else if quoted && rest[end] == '\'' {
				closed = true
				break
			} else if !quoted && strings.IndexByte(spaces, rest[end]) >= 0 {
				break
			}
			value.WriteByte(rest[end])
		}
		if !closed {
			return nil, errNoConnectionString
		}
		text = rest[end:]
		if quoted {
			text = text[1:] // the quote
		}
		if slices.Contains(secretSettings, key) && value.Len() > 0 {
			secrets = append(secrets, value.String())
		}
	}
	return secrets, nil
}

// environmentConnects reports whether libpq's environment says where the database is.
func environmentConnects() bool { return os.Getenv("PGHOST") != "" || os.Getenv("PGSERVICE") != "" }

// hosts are the servers that a connection may be made to, in their order.
func hosts(c *pgconn.Config) []string {
	name := func(host string, port uint16) string {
		if strings.HasPrefix(host, "/") {
			return host // the directory of a socket
		}
		return net.JoinHostPort(host, strconv.Itoa(int(port)))
	}
	all := []string{name(c.Host, c.Port)}
	for _, f := range c.Fallbacks {
		if host := name(f.Host, f.Port); !slices.Contains(all, host) {
			all = append(all, host)
		}
	}
	return all
}

// unverified returns a server that the connection would be made to without making sure that it is the one, or empty. Those on this machine are.
func unverified(c *pgconn.Config) string {
	all := []*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}
	for _, f := range append(all, c.Fallbacks...) {
		if ip := net.ParseIP(f.Host); strings.HasPrefix(f.Host, "/") || f.Host == "localhost" || ip != nil && ip.IsLoopback() {
			continue
		}
		if t := f.TLSConfig; t == nil || t.InsecureSkipVerify && t.VerifyPeerCertificate == nil && t.VerifyConnection == nil {
			return f.Host
		}
	}
	return ""
}
