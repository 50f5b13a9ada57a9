package tokenstore

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// AuditLog is what a log of the audit trail says was ended.
type AuditLog struct {
	// First is the time of its oldest event.
	First time.Time

	ended []*Event
	seen  map[string]struct{} // what was ended, by type and id
}

const (
	// auditLogger is the name of the logger of events.
	auditLogger = "oauth_proxy.audit"

	// maxLogLine is how long a line of a log may be.
	maxLogLine = 4 << 20
)

// Read adds a file of JSON lines: what the logger oauth_proxy.audit has written, or an export of the trail. Lines of other loggers are passed over. A line that is no JSON is an error.
func (l *AuditLog) Read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLogLine)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		if err := l.line(lines.Bytes()); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("a line is longer than %d bytes: it is no log of JSON lines", maxLogLine)
	}
	return lines.Err()
}

func (l *AuditLog) line(line []byte) error {
	var of struct {
		Logger *string `json:"logger"`
		Type   string  `json:"type"`
	}
	notJSON := errors.New("it is no JSON object: give the log as Caddy writes it with format json; if the line was cut off and ended nothing, take it out")
	if json.Unmarshal(line, &of) != nil {
		var object map[string]json.RawMessage
		if json.Unmarshal(line, &object) != nil {
			return notJSON
		}
		return nil // of another program
	}
	if of.Logger != nil && *of.Logger != auditLogger || of.Type == "" {
		return nil
	}
	e := new(Event)
	if json.Unmarshal(line, e) != nil || e.Time.IsZero() {
		return fmt.Errorf("the event %q cannot be read", clip(of.Type))
	}
	if l.First.IsZero() || e.Time.Before(l.First) {
		l.First = e.Time
	}
	if e.Outcome != OutcomeOK {
		return nil
	}
	var id string
	switch e.Type {
	case EventGrantEnded, EventSessionEnded, EventAPIKeyRevoked:
		id = e.Grant
	case EventClientDeleted:
		id = e.ClientID
	case EventRevocationOrdered:
		id = e.Details["order"]
	default:
		return nil
	}
	if !plain(id, maxID) {
		return fmt.Errorf("the event %s does not say what was ended", e.Type)
	}
	key := e.Type + " " + id
	if _, again := l.seen[key]; again {
		return nil
	}
	if l.seen == nil {
		l.seen = make(map[string]struct{})
	}
	l.seen[key] = struct{}{}
	l.ended = append(l.ended, e)
	return nil
}

// Ended is how many things the log says were ended.
func (l *AuditLog) Ended() int { return len(l.ended) }
