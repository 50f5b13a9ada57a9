package mcpfilter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// chunks is a body that arrives in these pieces, and ends with err, or else as bodies do.
type chunks struct {
	pieces []string
	err    error
	read   int
	closed bool
}

func (c *chunks) Read(p []byte) (int, error) {
	for len(c.pieces) > 0 && c.pieces[0] == "" {
		c.pieces = c.pieces[1:]
	}
	if len(c.pieces) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		return 0, io.EOF
	}
	n := copy(p, c.pieces[0])
	c.pieces[0] = c.pieces[0][n:]
	c.read += n
	return n, nil
}

func (c *chunks) Close() error { c.closed = true; return nil }

func same(data []byte) ([]byte, error) { return data, nil }

// shout is an edit that changes whatever has a lower case letter.
func shout(data []byte) ([]byte, error) { return bytes.ToUpper(data), nil }

func rewritten(t *testing.T, stream string, edit func([]byte) ([]byte, error)) string {
	t.Helper()
	whole, err := io.ReadAll(rewriteEvents(&chunks{pieces: []string{stream}}, 1<<20, edit))
	if err != nil {
		t.Fatalf("%q: %v", stream, err)
	}
	for name, slow := range map[string]func(io.Reader) io.Reader{
		"byte by byte": iotest.OneByteReader, "half by half": iotest.HalfReader, "end with the last bytes": iotest.DataErrReader,
	} {
		body := readCloser{slow(strings.NewReader(stream)), io.NopCloser(nil)}
		if got, err := io.ReadAll(rewriteEvents(body, 1<<20, edit)); err != nil || !bytes.Equal(got, whole) {
			t.Errorf("%q %s: %q, %v; want %q", stream, name, got, err, whole)
		}
	}
	return string(whole)
}

func TestEventsAreRewrittenAndAllElseStays(t *testing.T) {
	t.Parallel()
	for stream, want := range map[string]string{
		"":                             "",
		"data: a\n\n":                  "data: A\n\n",
		"data:a\n\n":                   "data: A\n\n",
		"data:  a\n\n":                 "data:  A\n\n",
		"data\n\n":                     "data\n\n",
		"data:A\n\n":                   "data:A\n\n",
		"event: message\ndata: a\n\n":  "event: message\ndata: A\n\n",
		"data: a\nid: 7\nretry: 5\n\n": "data: A\nid: 7\nretry: 5\n\n",
		": ping\n\n: pong\ndata: a\n: in between\ndata: b\nevent: e\n\n:\n": ": ping\n\n: pong\n: in between\ndata: A\ndata: B\nevent: e\n\n:\n",
		"data: a\r\nid: 1\r\n\r\ndata: b\r\n\r\n":                           "data: A\r\nid: 1\r\n\r\ndata: B\r\n\r\n",
		"data: a\rid: 1\r\rdata: b\r\r":                                     "data: A\rid: 1\r\rdata: B\r\r",
		"data: a\rdata: b\n\n":                                              "data: A\ndata: B\n\n",
		"data: a\n\r\ndata: b\r\r\n":                                        "data: A\n\r\ndata: B\r\r\n",
		"\xef\xbb\xbfdata: a\n\n":                                           "\xef\xbb\xbfdata: A\n\n",
		"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n":                               "\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n",
		"data: a\n\n\xef\xbb\xbfdata: b\n\n":                                "data: A\n\n\xef\xbb\xbfdata: b\n\n",
		"\xef\xbb":                                                          "\xef\xbb",
		"Data: a\n\n":                                                       "Data: a\n\n",
		" data: a\n\n":                                                      " data: a\n\n",
		"database: a\n\n":                                                   "database: a\n\n",
		"data : a\n\n":                                                      "data : a\n\n",
		"data: a":                                                           "data: A",
		"data: a\n":                                                         "data: A\n",
		"data: a\ndata: b":                                                  "data: A\ndata: B",
		"event: x":                                                          "event: x",
	} {
		if got := rewritten(t, stream, shout); got != want {
			t.Errorf("%q becomes %q, want %q", stream, got, want)
		}
		if got := rewritten(t, stream, same); got != stream {
			t.Errorf("%q becomes %q without an edit", stream, got)
		}
	}
}

func TestEditedDataMayHaveAnyLines(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		"": "data: \n\n", "x\ny": "data: x\ndata: y\n\n", "x\r\ny\rz": "data: x\ndata: y\ndata: z\n\n", "x\n": "data: x\ndata: \n\n", " x": "data:  x\n\n",
	} {
		if got := rewritten(t, "data: a\ndata: b\n\n", func([]byte) ([]byte, error) { return []byte(data), nil }); got != want {
			t.Errorf("%q becomes %q, want %q", data, got, want)
		}
	}
}

// What can be handed on is there at once: the pipe holds nothing back, and nothing more is written before it was read.
func TestEventsAreHandedOnAtOnce(t *testing.T) {
	t.Parallel()
	in, out := io.Pipe()
	body := rewriteEvents(in, 1<<20, shout)
	for _, step := range []struct{ written, handedOn string }{
		{": ping\n", ": ping\n"},
		{": pong\r", ": pong\r"},
		{"\nevent: message\n", "\nevent: message\n"},
		{"data: a\n\n", "data: A\n\n"},
		{"data: b\r\ndata: c\r\n\r", "data: B\r\ndata: C\r\n\r"},
		{"\n", "\n"},
		{"data: d\n\ndata: e\n\n: x\ndata: f", "data: D\n\ndata: E\n\n: x\n"},
		{"\n\n", "data: F\n\n"},
	} {
		written := make(chan struct{})
		go func() {
			_, _ = io.WriteString(out, step.written)
			close(written)
		}()
		got := make([]byte, len(step.handedOn))
		if _, err := io.ReadFull(body, got); err != nil || string(got) != step.handedOn {
			t.Fatalf("%q: %q, %v; want %q", step.written, got, err, step.handedOn)
		}
		<-written
	}
	_ = body.Close()
	if _, err := io.WriteString(out, "more"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the body is not closed: %v", err)
	}
}

func TestEventThatIsTooLongEndsTheStream(t *testing.T) {
	t.Parallel()
	const max = 11
	for stream, want := range map[string]string{
		"data: abcd\n\n":                        "data: ABCD\n\n",
		"data: abcd\r\r":                        "data: ABCD\r\r",
		": ping\n: ping\nid: 1\ndata: abcd\n\n": ": ping\n: ping\nid: 1\ndata: ABCD\n\n",
		"data: a\n\ndata: abcdef\n\n":           "data: A\n\n",
		"data: a\ndata: b\n\n":                  "",
		"data: a\nid: 1\n\n":                    "",
		"data: a\n\n: a long comment\n":         "data: A\n\n",
		"data: a\n\n: a long comment":           "data: A\n\n",
		": short\n: short\n: short\n: short\n":  ": short\n: short\n: short\n: short\n",
	} {
		for name, body := range map[string]io.Reader{"at once": strings.NewReader(stream), "byte by byte": iotest.OneByteReader(strings.NewReader(stream))} {
			got, err := io.ReadAll(rewriteEvents(io.NopCloser(body), max, shout))
			if whole := len(got) == len(stream); whole && err != nil || !whole && !errors.Is(err, errEventTooLong) {
				t.Errorf("%q %s: %v", stream, name, err)
			}
			if want == "" {
				if s := string(got); strings.Contains(s, "data") {
					t.Errorf("%q %s: %q came through", stream, name, s)
				}
			} else if string(got) != want {
				t.Errorf("%q %s: %q, want %q", stream, name, got, want)
			}
		}
	}
}

// endless is a line that never ends.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	e.read += len(p)
	return len(p), nil
}

func TestEndlessLineIsNotKept(t *testing.T) {
	t.Parallel()
	for _, begin := range []string{"", "data: ", ": ", "data: a\nid: ", "data: a\ndata: "} {
		rest := new(endless)
		body := rewriteEvents(io.NopCloser(io.MultiReader(strings.NewReader(begin), rest)), 100<<10, same)
		if _, err := io.Copy(io.Discard, body); !errors.Is(err, errEventTooLong) {
			t.Errorf("%q: %v", begin, err)
		}
		if rest.read > 400<<10 {
			t.Errorf("%q: %d bytes were read", begin, rest.read)
		}
	}
}

// errUnreadable is what an edit fails with that takes whole brackets alone.
var errUnreadable = errors.New("unreadable")

func brackets(data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte("[")) || !bytes.HasSuffix(data, []byte("]")) {
		return nil, errUnreadable
	}
	return data, nil
}

func TestErrorOfEditEndsTheStream(t *testing.T) {
	t.Parallel()
	got, err := io.ReadAll(rewriteEvents(&chunks{pieces: []string{"data: [1]\n\ndata: [2\n\ndata: [3]\n\n"}}, 1<<20, brackets))
	if !errors.Is(err, errUnreadable) || string(got) != "data: [1]\n\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestUnfinishedEventIsLeftOutWhenEditFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("the connection broke")
	for unfinished, passes := range map[string]bool{
		"data: [2": false, "data: [2\n": false, "data: [2\nid: 1": false, "data: [2\nda": false, "data: [2]": true, "data: [2]\nda": true, "dat": true, ": pi": true,
	} {
		for _, end := range []error{nil, broken} {
			want := "data: [1]\n\n"
			if passes {
				want += unfinished
			}
			got, err := io.ReadAll(rewriteEvents(&chunks{pieces: []string{"data: [1]\n\n" + unfinished}, err: end}, 1<<20, brackets))
			if !errors.Is(err, end) || string(got) != want {
				t.Errorf("%q: %q, %v; want %q, %v", unfinished, got, err, want, end)
			}
		}
	}
}

func TestEventsAreReadOneAfterTheOther(t *testing.T) {
	t.Parallel()
	broken := errors.New("the connection broke")
	for _, c := range []struct {
		stream string
		end    error
		want   []string
	}{
		{"\xef\xbb\xbf: hello\n\nevent: a\ndata: 1\r\ndata:2\r\n\r\nid: 7\n\ndata\r\rdata: 4\r\n\r\n", nil, []string{"1\n2", "", "4"}},
		{"data: 1\n\ndata: 2", nil, []string{"1", "2"}},
		{"data: 1\n\ndata: 2", broken, []string{"1"}},
		{"data: 1\n\n: 2", nil, []string{"1"}},
		{"", nil, nil},
	} {
		for _, size := range []int{1, 3, 100} {
			var pieces []string
			for piece := range slices.Chunk([]byte(c.stream), size) {
				pieces = append(pieces, string(piece))
			}
			events := eventScanner{body: &chunks{pieces: pieces, err: c.end}, max: 1 << 20}
			var got []string
			var err error
			for err == nil {
				var data []byte
				if data, err = events.next(); err == nil {
					got = append(got, string(data))
				}
			}
			if !slices.Equal(got, c.want) || (c.end == nil) != errors.Is(err, io.EOF) || c.end != nil && !errors.Is(err, c.end) {
				t.Errorf("%q by %d: %q, %v", c.stream, size, got, err)
			}
		}
	}
}

// standardEvents reads a stream as the HTML Living Standard says (section 9.2.6), and returns the data of the events.
func standardEvents(stream string) (events []string) {
	stream = strings.TrimPrefix(stream, "\xef\xbb\xbf")
	stream = strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n")
	data := ""
	for {
		line, rest, whole := strings.Cut(stream, "\n")
		if !whole {
			return events
		}
		stream = rest
		field, value, _ := strings.Cut(line, ":")
		switch {
		case line == "":
			if data != "" {
				events = append(events, strings.TrimSuffix(data, "\n"))
			}
			data = ""
		case field == "data":
			data += strings.TrimPrefix(value, " ") + "\n"
		}
	}
}

// Without an edit the bytes are the same; with one, a reader by the standard finds what edit made of each event that it would have found before.
func FuzzEventStream(f *testing.F) {
	for _, seed := range []string{
		"data: a\n\n", "event: x\r\ndata: a\r\ndata: b\r\n\r\nid: 7\r\n\r\n", ": c\rdata\r\rdata: x\r\n\r", "\xef\xbb\xbfdata:a\n\n: ping\n", "data: a\rdata: b\n\n", "data: a\r\n\ndata",
	} {
		f.Add([]byte(seed), uint8(3), "x\ny", uint16(100))
		f.Add([]byte(seed), uint8(0), "", uint16(8))
	}
	f.Fuzz(func(t *testing.T, stream []byte, size uint8, replacement string, limit uint16) {
		in := func() io.ReadCloser {
			c := new(chunks)
			for piece := range slices.Chunk(stream, int(size)+1) {
				c.pieces = append(c.pieces, string(piece))
			}
			return c
		}
		all := len(stream) + 1
		if got, err := io.ReadAll(rewriteEvents(in(), all, same)); err != nil || !bytes.Equal(got, stream) {
			t.Fatalf("%q became %q, %v", stream, got, err)
		}

		// Every second event is changed, so that changed and unchanged ones meet.
		n := 0
		edit := func(data []byte) ([]byte, error) {
			if n++; n%2 == 0 {
				return data, nil
			}
			return fmt.Appendf(nil, "%s%s", replacement, data), nil
		}
		got, err := io.ReadAll(rewriteEvents(in(), all, edit))
		if err != nil {
			t.Fatal(err)
		}
		n = 0
		var want []string
		for _, data := range standardEvents(string(stream)) {
			edited, _ := edit([]byte(data))
			want = append(want, strings.ReplaceAll(strings.ReplaceAll(string(edited), "\r\n", "\n"), "\r", "\n"))
		}
		if found := standardEvents(string(got)); !slices.Equal(found, want) {
			t.Fatalf("%q became %q, with the events %q, want %q", stream, got, found, want)
		}

		// Nothing that edit wants gone is there for any reader, finished or not.
		none, err := io.ReadAll(rewriteEvents(in(), all, func([]byte) ([]byte, error) { return nil, nil }))
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range standardEvents(string(none) + "\n\n") {
			if strings.Trim(data, "\n") != "" {
				t.Fatalf("%q became %q: data is left", stream, none)
			}
		}

		// However long the events are, no more than this is kept.
		limited := &eventRewriter{events: eventScanner{body: in(), max: int(limit)}, edit: same}
		kept, err := io.ReadAll(limited)
		if err != nil && !errors.Is(err, errEventTooLong) || !bytes.HasPrefix(stream, kept) {
			t.Fatalf("%q became %q, %v", stream, kept, err)
		}
		if c := cap(limited.events.buf); c > 4*(int(limit)+minEventRead) {
			t.Fatalf("%d bytes are kept for events of %d", c, limit)
		}
	})
}
