package operator

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// exportAudit is GET /audit/export: all events that are selected, the newest first, as JSON lines or CSV, while they are read. One that cannot be
// finished is broken off, so that nobody takes it for whole.
func (s *Server) exportAudit(w http.ResponseWriter, r *http.Request) (any, error) {
	f, err := eventFilter(r)
	if err != nil {
		return nil, err
	}
	format := param(r, "format")
	if format != "" && format != "jsonl" && format != "csv" {
		return nil, bad("format %q is unknown: write jsonl, or csv", format)
	}
	f.Limit = maxLimit
	events, next, faults, err := s.events(r, f)
	if err != nil {
		return nil, err
	}
	write, contentType, ending := exportJSON(w), "application/jsonl", "jsonl"
	if format == "csv" {
		write, contentType, ending = exportCSV(w), "text/csv; charset=utf-8; header=present", "csv"
	}
	setHeaders(w, contentType)
	w.Header().Set("Content-Disposition", `attachment; filename="audit.`+ending+`"`)
	if r.Method == http.MethodHead {
		return nil, nil
	}
	for {
		if faults == "" {
			err = write(events)
		}
		if f.After = next; err == nil && faults == "" && f.After == "" {
			return nil, nil
		}
		if err == nil && faults == "" {
			events, next, faults, err = s.events(r, f)
		}
		if err != nil || faults != "" {
			s.log.Error("export of the audit trail broken off", zap.String("fault", faults), zap.Error(err))
			panic(http.ErrAbortHandler) // as net/http has a response broken off
		}
	}
}

// exportJSON writes a JSON object a line.
func exportJSON(w io.Writer) func([]*tokenstore.Event) error {
	encoder := json.NewEncoder(w)
	return func(events []*tokenstore.Event) error {
		for _, e := range events {
			if err := encoder.Encode(e); err != nil {
				return err
			}
		}
		return nil
	}
}

// columns are those of a CSV export.
var columns = []string{
	"id", "time", "type", "outcome", "actor_kind", "actor_id", "actor", "user_id", "user", "client_id", "client", "proxy", "provider", "grant", "account", "consent", "jti",
	"address", "reason", "details",
}

// exportCSV writes a row an event, below a row of heads.
func exportCSV(w io.Writer) func([]*tokenstore.Event) error {
	table := csv.NewWriter(w)
	heads := true
	return func(events []*tokenstore.Event) error {
		if heads {
			_ = table.Write(columns) // Error says
			heads = false
		}
		for _, e := range events {
			row := []string{
				e.ID, e.Time.UTC().Format(time.RFC3339Nano), e.Type, e.Outcome, e.Actor.Kind, e.Actor.ID, e.Actor.Label, e.UserID, e.User, e.ClientID, e.Client, e.Proxy, e.Provider,
				e.Grant, e.Account, e.Consent, e.JTI, e.Address, e.Reason, details(e.Details),
			}
			for i := range row {
				row[i] = plainCell(row[i])
			}
			_ = table.Write(row)
		}
		table.Flush()
		return table.Error()
	}
}

// details are written as name=value, one after the other.
func details(d map[string]string) string {
	parts := make([]string, 0, len(d))
	for _, name := range slices.Sorted(maps.Keys(d)) {
		parts = append(parts, name+"="+d[name])
	}
	return strings.Join(parts, "; ")
}

// plainCell keeps a spreadsheet from taking what a stranger calls itself for a formula, also in the wide letters that some of them read alike.
func plainCell(text string) string {
	if first, _ := utf8.DecodeRuneInString(text); strings.ContainsRune("=+-@\t\r\n＝＋－＠", first) {
		return "'" + text
	}
	return text
}
