package tokenstore

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestLinesOfASegmentComeBackAsTheyWerePacked(t *testing.T) {
	t.Parallel()
	lines := [][]byte{[]byte(`{"id":"a"}`), []byte(strings.Repeat("x", maxSegmentBytes/2)), []byte(`{}`)}
	packed, err := pack(lines)
	if err != nil {
		t.Fatal(err)
	}
	got, err := unpack(packed)
	if err != nil || !slices.EqualFunc(got, lines, bytes.Equal) {
		t.Errorf("unpack = %d lines, %v", len(got), err)
	}
	bomb, err := pack([][]byte{bytes.Repeat([]byte("x"), 3*maxSegmentBytes)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(bomb); !errors.Is(err, ErrTampered) {
		t.Errorf("unpack of what is far larger than a segment: %v; want ErrTampered", err)
	}
}

func TestHashOfASegmentDependsOnEverythingInIt(t *testing.T) {
	t.Parallel()
	seen := make(map[string]int)
	for i, tt := range []struct {
		number   uint64
		previous string
		lines    []string
	}{
		{1, "", []string{"a", "b"}}, {2, "", []string{"a", "b"}}, {1, "a", []string{"b"}}, {1, "", []string{"ab"}}, {1, "", []string{"b", "a"}},
		{1, "", []string{"a", "b", ""}}, {1, "", nil}, {1, "00", []string{"a", "b"}},
	} {
		var lines [][]byte
		for _, line := range tt.lines {
			lines = append(lines, []byte(line))
		}
		hash := segmentHash(tt.number, tt.previous, lines)
		if other, have := seen[hash]; have || len(hash) != 64 {
			t.Errorf("segments %d and %d have the hash %s", i, other, hash)
		}
		seen[hash] = i
	}
}

func FuzzSegmentLines(f *testing.F) {
	packed, err := pack([][]byte{[]byte(`{"id":"a"}`), []byte(`{"id":"b"}`)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, packed []byte) {
		lines, err := unpack(packed)
		if err != nil {
			return
		}
		again, err := pack(lines)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := unpack(again); err != nil || !slices.EqualFunc(back, lines, bytes.Equal) {
			t.Errorf("lines %q come back as %q, %v", lines, back, err)
		}
	})
}

func FuzzCursor(f *testing.F) {
	for _, s := range []string{"", "s.1.0", "s.12.1000", "w.3." + newEventID(eventTime("")), "w.0.AAAAAAAAAAAAAAAAAAAAAAAAAA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseCursor(s)
		if err != nil || c == (cursor{}) {
			return
		}
		if again, err := parseCursor(c.String()); c.String() != "" && (err != nil || again != c) {
			t.Errorf("%q is %+v, which comes back as %+v, %v", s, c, again, err)
		}
	})
}
