// Command jsonreference writes docs/json.md: every field of the JSON configuration, in the words of its doc comment. It runs in the root of the checkout.
package main

import (
	"fmt"
	"os"
)

func main() {
	text, err := reference(".")
	if err == nil {
		err = os.WriteFile("docs/json.md", text, 0o644) //nolint:gosec // documentation, for everybody to read
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
