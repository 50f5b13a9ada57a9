package caddyoauthproxy

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/console"
)

// print prints an answer as JSON where that was asked for, and otherwise as f does.
func (c *call) print(answer any, f func() error) error {
	if c.Bool("json") {
		return json.NewEncoder(c.out).Encode(answer)
	}
	return f()
}

// table prints rows below their heads. What is in them is made fit for a line.
func (c *call) table(heads []string, rows [][]string) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(heads, "\t"))
	for _, row := range rows {
		for i := range row {
			row[i] = cell(row[i])
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// describe prints what there is to know of one thing, a line each; empty values are left out.
func (c *call) describe(fields [][2]string) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, f := range fields {
		if f[1] != "" {
			fmt.Fprintf(w, "%s:\t%s\n", f[0], cell(f[1]))
		}
	}
	return w.Flush()
}

// cell is a text in one line, without what could make it look like another.
func cell(text string) string { return console.Clean(text, 300) }

// moment is a time in a table, to the second.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// safeWriter writes text without control and format characters, as which escape sequences begin and texts change their direction. They are written as JSON
// escapes them, so that JSON remains what it was.
type safeWriter struct {
	to   io.Writer
	rest []byte // the beginning of a character that is still to come
}

// Write implements io.Writer.
func (s *safeWriter) Write(p []byte) (int, error) {
	text := append(s.rest, p...)
	var out strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == utf8.RuneError && size == 1 && !utf8.FullRune(text) {
			break
		}
		escape(&out, r)
		text = text[size:]
	}
	s.rest = append([]byte(nil), text...)
	if _, err := io.WriteString(s.to, out.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// flush writes what was left.
func (s *safeWriter) flush() error {
	if len(s.rest) == 0 {
		return nil
	}
	s.rest = nil
	_, err := io.WriteString(s.to, string(utf8.RuneError))
	return err
}

func escape(out *strings.Builder, r rune) {
	switch {
	case r == '\n' || r == '\t' || !unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
		out.WriteRune(r)
	case r > 0xffff:
		out.WriteRune(utf8.RuneError)
	default:
		fmt.Fprintf(out, `\u%04x`, r)
	}
}
