package mcpfilter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
)

// errEventTooLong says that an event, or a line between events, is longer than its reader keeps in memory.
var errEventTooLong = errors.New("the event is too long")

// minEventRead is how much of an event stream is asked for at once, at least.
const minEventRead = 4 << 10

// maxIdleBuffer is how much memory a stream keeps that has nothing in it at the moment.
const maxIdleBuffer = 64 << 10

// byteOrderMark may stand at the beginning of an event stream.
const byteOrderMark = "\xef\xbb\xbf"

// rewriteEvents returns a body that passes an event stream through, with the data of each event as edit returns it.
//
// edit is given the data of one event, with a line feed between its lines, and must neither change nor keep it. An event whose data it returns
// as it was passes byte for byte; otherwise the new data takes the place of the event's data lines, and all others stay. What stands before an
// event's data passes as soon as its line is complete, and the event with its blank line. Neither an event, from its data on, nor
// any other line may have more than max bytes, or the stream ends with errEventTooLong; it ends with the error of edit, too.
//
// An event without its blank line at the end of the stream is none (HTML Living Standard, section 9.2.6), but not every reader knows. So it is
// edited as well, and left out when edit fails. Readers do not agree either on whether a carriage return alone ends a line, as it does here: edit
// must refuse data that it cannot read, instead of returning it.
func rewriteEvents(body io.ReadCloser, max int, edit func(data []byte) ([]byte, error)) io.ReadCloser {
	return &eventRewriter{body, eventScanner{body: body, max: max}, edit, nil, nil, nil}
}

type eventRewriter struct {
	io.Closer
	events eventScanner
	edit   func(data []byte) ([]byte, error)

	// rest is what of edited is still to be read, and err what comes then.
	edited, rest []byte
	err          error
}

func (r *eventRewriter) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if cap(r.edited) > maxIdleBuffer {
			r.edited = nil
		}
		r.edited = r.edited[:0]
		r.err = r.advance()
		r.rest = r.edited
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// advance reads from the body once, and edits what need not wait for more.
func (r *eventRewriter) advance() error {
	r.events.fill()
	for {
		s, err := r.events.scan()
		if err != nil {
			return err
		}
		if s.lines == nil {
			return r.events.end
		}
		if err := r.pass(s); err != nil && !s.unfinished {
			return err
		}
	}
}

func (r *eventRewriter) pass(s stretch) error {
	if !s.event {
		r.edited = append(r.edited, s.lines...)
		return nil
	}
	data := s.data()
	edited, err := r.edit(data)
	switch {
	case err != nil:
		return err
	case bytes.Equal(data, edited):
		r.edited = append(r.edited, s.lines...)
	default:
		r.edited = s.appendWith(r.edited, edited)
	}
	return nil
}

// stretch is a piece of an event stream: an event with data, or lines that are part of none so far.
type stretch struct {
	lines []byte
	event bool

	// unfinished says that the stream ended before the event's blank line.
	unfinished bool
}

// data returns the data of an event.
func (s stretch) data() []byte {
	var data []byte
	more := false
	for rest := s.lines; len(rest) > 0; {
		var line []byte
		line, _, rest = cutLine(rest)
		value, ok := dataOf(line)
		switch {
		case !ok:
		case more:
			data = append(append(data, '\n'), value...)
		default:
			data, more = slices.Clip(value), true // the next line is appended to a copy
		}
	}
	return data
}

// appendWith appends the event with other data to b. It stands where the last of the old data stood, in front of the same bytes: a carriage return
// at its end would swallow a line feed that another line began with.
func (s stretch) appendWith(b, data []byte) []byte {
	lines := 0 // of data
	for rest := s.lines; len(rest) > 0; {
		var line []byte
		line, _, rest = cutLine(rest)
		if _, ok := dataOf(line); ok {
			lines++
		}
	}
	for rest := s.lines; len(rest) > 0; {
		var line, end []byte
		line, end, rest = cutLine(rest)
		if _, ok := dataOf(line); !ok {
			b = append(append(b, line...), end...)
		} else if lines--; lines == 0 {
			b = appendData(b, data, end)
		}
	}
	return b
}

// appendData appends data lines, the last of which ends as told.
func appendData(b, data, end []byte) []byte {
	between := end
	if len(between) == 0 {
		between = []byte("\n")
	}
	for {
		line, broken, rest := cutLine(data)
		b = append(append(b, "data: "...), line...)
		if len(broken) == 0 {
			return append(b, end...)
		}
		b = append(b, between...)
		data = rest
	}
}

// eventScanner takes an event stream apart, without losing a byte.
type eventScanner struct {
	body io.Reader
	max  int

	// buf is what was read. From start on it is still to be handed out; from line on stands a line whose end is not found before pos.
	buf              []byte
	start, line, pos int

	// data is where the event's first data line begins, if hasData.
	data    int
	hasData bool

	// begun says that there is no byte order mark, or no more; returned that a line feed at pos belongs to the carriage return before it.
	begun, returned bool

	// end is why nothing more can be read.
	end error
}

// next returns the data of the next event, which is good until the next call, and io.EOF behind the last.
func (s *eventScanner) next() ([]byte, error) {
	for {
		found, err := s.scan()
		switch {
		case err != nil:
			return nil, err
		case found.event && (!found.unfinished || s.end == io.EOF): //nolint:errorlint // as readers return it
			return found.data(), nil
		case found.lines != nil:
		case s.end != nil:
			return nil, s.end
		default:
			s.fill()
		}
	}
}

// fill reads from the body once.
func (s *eventScanner) fill() {
	if s.start > 0 {
		rest := s.buf[s.start:]
		if len(rest) == 0 && cap(s.buf) > maxIdleBuffer {
			s.buf = nil
		}
		s.buf = s.buf[:copy(s.buf, rest)]
		s.line, s.pos, s.data, s.start = s.line-s.start, s.pos-s.start, s.data-s.start, 0
	}
	s.buf = slices.Grow(s.buf, minEventRead)
	n, err := s.body.Read(s.buf[len(s.buf):cap(s.buf)])
	s.buf, s.end = s.buf[:len(s.buf)+n], err
}

// scan returns the next stretch of what was read that need not wait for more, or none. It is good until the next call of fill.
func (s *eventScanner) scan() (stretch, error) {
	if !s.begun {
		if len(s.buf) < len(byteOrderMark) && string(s.buf) == byteOrderMark[:len(s.buf)] && s.end == nil {
			return stretch{}, nil
		}
		s.begun = true
		if bytes.HasPrefix(s.buf, []byte(byteOrderMark)) {
			s.line, s.pos = len(byteOrderMark), len(byteOrderMark)
			return s.take(s.pos), nil
		}
	}
	for s.pos < len(s.buf) {
		if s.returned {
			s.returned = false
			if s.buf[s.pos] == '\n' {
				s.pos++
				s.line = s.pos
				continue
			}
		}
		line, end, rest := cutLine(s.buf[s.pos:])
		line = s.buf[s.line : s.pos+len(line)]
		if s.length(s.line+len(line)) > s.max {
			return stretch{}, fmt.Errorf("%w: it has more than %d bytes", errEventTooLong, s.max)
		}
		s.pos = len(s.buf) - len(rest)
		if len(end) == 0 {
			break
		}
		s.returned = string(end) == "\r"
		if _, ok := dataOf(line); ok && !s.hasData {
			s.data, s.hasData = s.line, true
		}
		s.line = s.pos
		if len(line) == 0 {
			return s.take(s.pos), nil
		}
	}
	switch {
	case !s.hasData && s.line > s.start:
		return s.take(s.line), nil
	case s.end != nil && s.start < len(s.buf):
		if _, ok := dataOf(s.buf[s.line:]); ok {
			s.hasData = true
		}
		last := s.take(len(s.buf))
		last.unfinished = true
		return last, nil
	}
	return stretch{}, nil
}

// take hands out what stands before end.
func (s *eventScanner) take(end int) stretch {
	taken := stretch{lines: s.buf[s.start:end:end], event: s.hasData}
	s.start, s.hasData = end, false
	return taken
}

// length is how much of what stands before end must be kept together.
func (s *eventScanner) length(end int) int {
	if s.hasData {
		return end - s.data
	}
	return end - s.line
}

// cutLine cuts off the first line. Its end is a carriage return, a line feed, both, or nothing when the line is not complete.
func cutLine(b []byte) (line, end, rest []byte) {
	i := bytes.IndexAny(b, "\r\n")
	if i < 0 {
		return b, nil, nil
	}
	n := 1
	if bytes.HasPrefix(b[i:], []byte("\r\n")) {
		n = 2
	}
	return b[:i], b[i : i+n], b[i+n:]
}

// dataOf returns the value of a data line.
func dataOf(line []byte) (value []byte, ok bool) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	if string(name) != "data" {
		return nil, false
	}
	return bytes.TrimPrefix(value, []byte(" ")), true
}
