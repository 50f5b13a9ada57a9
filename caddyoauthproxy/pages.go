package caddyoauthproxy

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
)

// Console says how the gateway's pages look.
type Console struct {
	// The name of the gateway on top of each page, of 1 to 60 characters. Default: `MCP gateway`.
	Brand string `json:"brand,omitempty"`

	// The file of a picture that stands before the name: SVG, PNG or WebP, of 64 KiB at most. It becomes part of each page. Default: none.
	Logo string `json:"logo,omitempty"`

	// The colour of buttons and links, as `rrggbb` or `#rrggbb`. What is written on it is black or white, whichever can be read better, and links are made darker
	// or lighter until they can be read. Default: a blue.
	Accent string `json:"accent,omitempty"`

	// The same on dark paper. Default: `accent`.
	AccentDark string `json:"accent_dark,omitempty"`

	// A directory with templates and a style.css that take the place of the gateway's own, by file name. All are tried when the configuration is
	// loaded. Default: none.
	Templates string `json:"templates,omitempty"`
}

// resolve makes the pages.
func (c Console) resolve() (*console.Pages, error) {
	o := console.Options{Brand: c.Brand, Accent: c.Accent, AccentDark: c.AccentDark}
	var err error
	if c.Logo != "" {
		if o.Logo, err = readLogo(c.Logo); err != nil {
			return nil, fmt.Errorf("console: logo: %w", err)
		}
	}
	if c.Templates != "" {
		if o.Templates, err = templates(c.Templates); err != nil {
			return nil, fmt.Errorf("console: templates: %w", err)
		}
	}
	pages, err := console.New(o)
	if err != nil && c.Templates != "" {
		return nil, fmt.Errorf("console: %w (templates are in %s)", err, c.Templates)
	}
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	return pages, nil
}

// readLogo reads a picture, and no more of a file than a picture may have.
func readLogo(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return raw, err
}

// templates opens the directory of templates.
func templates(path string) (fs.FS, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is no directory", path)
	}
	return os.DirFS(path), nil
}
