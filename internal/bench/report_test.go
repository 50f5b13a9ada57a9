package bench

import (
	"bytes"
	"fmt"
	"html"
	"os"
	"strings"
	"testing"
)

// report shows a table, and puts it where the document has the one of before.
func report(b *testing.B, name, table string) {
	b.Helper()
	fmt.Fprintf(os.Stdout, "\n%s\n%s\n", name, table) // what a benchmark logs is cut after ten lines
	if *write == "" {
		return
	}
	text, err := os.ReadFile(*write)
	if err != nil {
		b.Fatal(err)
	}
	begin, end := fmt.Appendf(nil, "<!-- %s -->\n", name), fmt.Appendf(nil, "<!-- end of %s -->\n", name)
	before, rest, ok := bytes.Cut(text, begin)
	_, after, ended := bytes.Cut(rest, end)
	if !ok || !ended {
		b.Fatalf("%s has no place for %s: lines %q and %q", *write, name, begin, end)
	}
	if err := os.WriteFile(*write, bytes.Join([][]byte{before, begin, []byte(table), end, after}, nil), 0o644); err != nil {
		b.Fatal(err)
	}
}

// picture is the file of a picture beside the document, empty where none is written.
func picture(name string) string {
	if *write == "" {
		return ""
	}
	return strings.TrimSuffix(*write, ".md") + "-" + name + ".svg"
}

// bar is a line of a plot.
type bar struct {
	name  string
	value float64
}

// plot draws bars, each with its value.
func plot(b *testing.B, name, title string, bars []bar) {
	b.Helper()
	path := picture(name)
	if path == "" {
		return
	}
	most := 0.0
	for _, bar := range bars {
		most = max(most, bar.value)
	}
	const height, left, width = 26, 300, 480.0
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13"><rect width="100%%" height="100%%" fill="#fff"/>`+"\n", left+int(width)+80, height*(len(bars)+1)+10)
	fmt.Fprintf(&out, `<text x="10" y="20" font-weight="bold">%s</text>`+"\n", html.EscapeString(title))
	for i, bar := range bars {
		y, w, color := height*(i+1)+8, width*bar.value/most, "#f2a65a"
		if strings.HasPrefix(bar.name, "`") {
			color = "#b8c4d6"
		}
		fmt.Fprintf(&out, `<text x="%d" y="%d" text-anchor="end">%s</text><rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d">%.1f</text>`+"\n",
			left-10, y+15, html.EscapeString(strings.ReplaceAll(bar.name, "`", "")), left, y, w, height-6, color, left+w+6, y+15, bar.value)
	}
	out.WriteString("</svg>\n")
	if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
		b.Fatal(err)
	}
}
