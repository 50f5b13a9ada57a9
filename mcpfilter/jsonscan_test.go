package mcpfilter

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// decodedParts is partsOf as encoding/json does it.
func decodedParts(text []byte, open json.Delim) ([]part, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if first, err := dec.Token(); err != nil || first != open {
		return nil, errNotOneValue
	}
	var parts []part
	for dec.More() {
		var p part
		if open == '{' {
			token, err := dec.Token()
			if err != nil {
				return nil, errNotOneValue
			}
			p.name, _ = token.(string)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errNotOneValue
		}
		p.end = int(dec.InputOffset())
		p.start = p.end - len(value)
		parts = append(parts, p)
	}
	if _, err := dec.Token(); err != nil {
		return nil, errNotOneValue
	}
	if len(bytes.TrimLeft(text[dec.InputOffset():], " \t\r\n")) > 0 {
		return nil, errNotOneValue
	}
	return parts, nil
}

func checkScan(t *testing.T, text []byte) {
	t.Helper()
	for _, open := range []byte{'{', '['} {
		want, wantErr := decodedParts(text, json.Delim(open))
		got, err := partsOf(text, open)
		if (err == nil) != (wantErr == nil) || !slices.Equal(got, want) {
			t.Fatalf("%.200q: %v (%v), and %v (%v) by encoding/json", text, got, err, want, wantErr)
		}
	}
	if end := skipValue(text, skipSpace(text, 0)); json.Valid(text) != (end >= 0 && atEnd(text, end) == nil) {
		t.Fatalf("%.200q: ends at %d, valid %v", text, end, json.Valid(text))
	}
}

// scanSeeds are what parsers of JSON disagree on.
var scanSeeds = []string{
	``, ` `, `{`, `}`, `[`, `]`, `{}`, `[]`, ` { } `, "[\t]\r\n", `{]`, `[}`, `{}x`, `[] []`, `{},`, `{,}`, `[,]`, `[1,]`, `[,1]`, `[1 2]`, `{"a"}`, `{"a":}`, `{"a" 1}`, `{"a":1 "b":2}`, `{"a":1,}`,
	`{"a":1]`, `[1}`, `{1:2}`, `{null:1}`, `{"a":1,"b":[true,false,null,"x"],"c":{"d":{}}}`, `{"a":1}{"b":2}`, `[[1],[2,[3,[]]],{}]`, `[{"a":[}]]`, `[{"a":{"b":1,"c"}}]`, `[{"a":{"b":1,}}]`,
	`[0]`, `[-0]`, `[01]`, `[-]`, `[1.]`, `[.5]`, `[1.5e+3]`, `[1e]`, `[1E-]`, `[1e5]`, `[+1]`, `[0x1]`, `[1_0]`, `[NaN]`, `[Infinity]`, `[-01]`, `[1.0.0]`, `[-1.25E-7]`, `[--1]`,
	`[tru]`, `[true1]`, `[truefalse]`, `[nul]`, `[True]`, `[nulll]`, `true`, `"a"`, `1`, ` null `, `[tr`, `[-`,
	`["\u00e9\ud83d\ude00"]`, `["\ud800"]`, `["\u12"]`, `["\u12g4"]`, `["\x41"]`, `["\`, `["\"]`, `["\\"]`, `["a`, "[\"a\nb\"]", "[\"\x7f\"]", "[\"\x00\"]", `["\/\b\f\n\r\t\""]`, `['a']`, `["\u123`, `["\u1234`,
	"[\"\xff\"]", "{\"\xff\":1}", `{"\u0061":1,"a":2}`, `{"\ud800":1}`, "{\"\xc3\xa9\":1}", `{"":1}`, "\xef\xbb\xbf{}", "\xc2\xa0{}", "[1,\v2]", `[1,/*c*/2]`, `{"a":1,//c` + "\n}", "{\"a\"\n:\n1\n,\n\"b\":2}",
}

func TestScannerFindsWhatEncodingJSONFinds(t *testing.T) {
	t.Parallel()
	for _, text := range scanSeeds {
		checkScan(t, []byte(text))
		for end := range text { // cut off anywhere
			checkScan(t, []byte(text[:end]))
		}
	}
	for _, depth := range []int{31, 32, 33, maxDepth - 1, maxDepth, maxDepth + 1} {
		for _, text := range []string{
			strings.Repeat("[", depth) + strings.Repeat("]", depth), strings.Repeat("[", depth) + "1" + strings.Repeat("]", depth),
			strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth), strings.Repeat("[", depth),
		} {
			if end := skipValue([]byte(text), 0); json.Valid([]byte(text)) != (end == len(text)) {
				t.Errorf("%.20s, %d deep: ends at %d", text, depth, end)
			}
			inner := "[" + text + "]"
			want, wantErr := decodedParts([]byte(inner), '[')
			if got, err := partsOf([]byte(inner), '['); (err == nil) != (wantErr == nil) || !slices.Equal(got, want) {
				t.Errorf("%.20s, %d deep within an array: %v (%v), want %v (%v)", text, depth, got, err, want, wantErr)
			}
		}
	}
}

func FuzzScanner(f *testing.F) {
	for _, seed := range scanSeeds {
		f.Add([]byte(seed))
	}
	f.Add([]byte(benchCall))
	f.Fuzz(checkScan)
}

func TestPlainCharactersAreNeitherControlsNorBroken(t *testing.T) {
	t.Parallel()
	for s, plain := range map[string]bool{
		"": true, "a b~": true, "é": true, "\U0001F600": true, "a\x1f": false, "\x7f": false, "\u0085": false, "\u00ad": false, "\u200b": false, "\u202e": false,
		"\ue000": false, "\xff": false, "\ufffd": false, "\u0000": false,
	} {
		if plainText(s) != plain || plainBytes([]byte(s)) != plain {
			t.Errorf("%q: %v, %v", s, plainText(s), plainBytes([]byte(s)))
		}
	}
}

// The body of a tool call is read without copies: what is allocated is what is kept of it.
func TestReadingACallAllocatesWhatItKeeps(t *testing.T) {
	body := []byte(benchCall)
	if n := testing.AllocsPerRun(100, func() { readContents(body) }); n > 3 { // contents, the list of names, and the name
		t.Errorf("%v allocations", n)
	}
}
