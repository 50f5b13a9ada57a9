package operator_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const backupOfTests = "sealed rows"

// backupsOfTests answer with all that can be answered.
func backupsOfTests() operator.Backups {
	made := &tokenstore.Backup{
		BackupHeader: tokenstore.BackupHeader{Format: 1, Vault: "00"}, SHA256: "00", Rows: 1, Kinds: map[tokenstore.Kind]tokenstore.KindDigest{tokenstore.KindGrant: {Rows: 1, SHA256: "00"}},
	}
	return operator.Backups{
		Take: func(context.Context) (io.ReadCloser, int64, *tokenstore.Backup, error) {
			return io.NopCloser(strings.NewReader(backupOfTests)), int64(len(backupOfTests)), made, nil
		},
		Restore: func(_ context.Context, n operator.NewRestore, tell func(tokenstore.Progress)) (*operator.Restored, error) {
			if strings.Contains(n.From, "damaged") {
				return nil, operator.Conflict("it is damaged")
			}
			tell(tokenstore.Progress{Step: tokenstore.RestoreWriting, Kind: tokenstore.KindGrant, Done: 1, Total: 1})
			return &operator.Restored{To: "bbolt /new.db", Backup: made, Ended: &tokenstore.CaughtUp{Grants: 1, Unreadable: 1}}, nil
		},
	}
}

func TestBackupsAreTakenAndRestoredAtTheAdminEndpointAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, r := range [][3]string{{"GET", "/backup", ""}, {"POST", "/restore", `{"vault":{"module":"bbolt"},"from":"/b","revive":true}`}} {
		a := w.send(r[0], w.site.URL+"/gw/admin/oauth"+r[1], r[2], header("X-Test-Cookie", "admin"), header("Content-Type", "application/json"))
		if a.status != http.StatusForbidden || strings.Contains(a.body, backupOfTests) {
			t.Errorf("%s %s on the site: %d %s", r[0], r[1], a.status, a.body)
		}
	}
	if a := w.ask("GET", "/backup", ""); a.status != http.StatusOK || a.header.Get("Content-Length") != "11" || a.header.Get("Content-Type") != "application/octet-stream" ||
		a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("backup: %d %v", a.status, a.header)
	}
	if a := w.ask("HEAD", "/backup", ""); a.status != http.StatusMethodNotAllowed {
		t.Errorf("HEAD: %d", a.status)
	}
	for body, want := range map[string]string{
		`{"from":"/b"}`: "vault is missing", `{"vault":{"module":"bbolt"}}`: "from is missing", `{"vault":{},"from":"/b","to":"x"}`: "unknown field",
		`{"vault":{"module":"bbolt"},"from":"/damaged"}`: "it is damaged",
	} {
		if a := w.ask("POST", "/restore", body); a.status != http.StatusBadRequest && a.status != http.StatusConflict || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
}
