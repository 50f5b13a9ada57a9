// Openapi checks documents of OpenAPI against its specification. It is a module of its own, so that nothing of it is compiled into the plugin.
//
//	go run . ../../docs/openapi.yaml
package main

import (
	"fmt"
	"os"

	"github.com/getkin/kin-openapi/openapi3"
)

func main() {
	for _, file := range os.Args[1:] {
		if err := check(file); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", file, err)
			os.Exit(1)
		}
	}
}

func check(file string) error {
	loader := openapi3.NewLoader()
	loader.IsExternalRefsAllowed = true // to other files of the repository
	document, err := loader.LoadFromFile(file)
	if err != nil {
		return err
	}
	return document.Validate(loader.Context)
}
