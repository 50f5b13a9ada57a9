package bench

import (
	"bytes"
	"fmt"
	"os"
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
	if err := os.WriteFile(*write, bytes.Join([][]byte{before, begin, []byte(table), end, after}, nil), 0o644); err != nil { //nolint:gosec // a document
		b.Fatal(err)
	}
}
