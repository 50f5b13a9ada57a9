package caddyoauthproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// work is ask for what takes long: it shows how far it is, and reads the result that it ends with.
func (c *call) work(method, path string, body, result any) error {
	resp, err := c.open(method, path, nil, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	bar := c.progressBar()
	defer bar.end()
	for lines := json.NewDecoder(resp.Body); ; {
		var line operator.Work
		switch err := lines.Decode(&line); {
		case errors.Is(err, io.EOF):
			return errors.New("the answer of the admin endpoint broke off: Caddy may have ended, or loaded another configuration; run the command again")
		case err != nil:
			return fmt.Errorf("answer of the admin endpoint: %w", err)
		case line.Error != "":
			return errors.New(line.Error)
		case line.Result != nil:
			return json.Unmarshal(line.Result, result)
		case line.Progress != nil:
			bar.show(*line.Progress)
		}
	}
}

// progressBar shows on standard error how far something is: as a bar on a terminal, and elsewhere in a line for each step and kind.
type progressBar struct {
	to    io.Writer
	width int // of the terminal, zero where it is none
	last  string
}

func (c *call) progressBar() *progressBar {
	if width, _, err := term.GetSize(int(os.Stderr.Fd())); err == nil && width > 0 {
		return &progressBar{to: os.Stderr, width: width}
	}
	return &progressBar{to: c.notes()}
}

// barWidth is how many signs a bar has.
const barWidth = 30

func (b *progressBar) show(p tokenstore.Progress) {
	what := strings.TrimSpace(fmt.Sprintf("%s %s", p.Step, p.Kind))
	if b.width == 0 {
		if what != b.last {
			fmt.Fprintf(b.to, "%s: %d of %d\n", what, p.Done, p.Total)
			b.last = what
		}
		return
	}
	full := 0
	if p.Total > 0 {
		full = barWidth * min(p.Done, p.Total) / p.Total
	}
	line := fmt.Sprintf("[%s%s] %s %d/%d", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), cell(what), p.Done, p.Total)
	line = line[:min(len(line), b.width-1)]
	fmt.Fprintf(b.to, "\r%s%s", line, strings.Repeat(" ", max(0, len(b.last)-len(line))))
	b.last = line
}

// end takes the bar off the terminal.
func (b *progressBar) end() {
	if b.width > 0 && b.last != "" {
		fmt.Fprintf(b.to, "\r%s\r", strings.Repeat(" ", len(b.last)))
	}
}
