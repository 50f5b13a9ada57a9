package main

import (
	"os"
	"testing"
)

func TestReferenceIsWhatTheCommentsSay(t *testing.T) {
	t.Parallel()
	want, err := reference("../..")
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != string(want) {
		t.Error("docs/json.md is not what the doc comments say: run `make docs`")
	}
}
