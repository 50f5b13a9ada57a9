package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Backups are made of the vault, and restored to other stores.
type Backups struct {
	// Take makes a backup, and returns it for reading, with its size. What the operator can do something about is an error of Conflict.
	Take func(context.Context) (file io.ReadCloser, size int64, made *tokenstore.Backup, err error)

	// Restore fills another store from a backup.
	Restore func(ctx context.Context, n NewRestore, tell func(tokenstore.Progress)) (*Restored, error)
}

// NewRestore says which store is to be filled from which backup, and what becomes of what was ended since that was taken: one of AuditLogs, EndAll and Revive is set.
type NewRestore struct {
	// Vault is the vault module of the configuration that is to serve the store, with its placeholders, and EncryptionKeys are its keys, which must open the backup.
	Vault          json.RawMessage   `json:"vault"`
	EncryptionKeys []json.RawMessage `json:"encryption_keys,omitempty"`

	// From is the file of the backup, on this machine.
	From string `json:"from"`

	// AuditLogs are files of JSON lines of the logger oauth_proxy.audit, on this machine. What they say was ended is ended again.
	AuditLogs []string `json:"audit_logs,omitempty"`

	// EndAll ends all grants and API keys, and Revive leaves everything alive that was.
	EndAll bool `json:"end_all,omitempty"`
	Revive bool `json:"revive,omitempty"`
}

// Restored is what a restore has done.
type Restored struct {
	// To is the store, and Backup what it was filled from; nil where the vault was there already.
	To     string             `json:"to"`
	Backup *tokenstore.Backup `json:"backup,omitempty"`

	// Ended is what was ended in it.
	Ended *tokenstore.CaughtUp `json:"ended"`
}

// takeBackup is GET /backup: the vault of one moment, sealed as it is.
func (s *Server) takeBackup(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := atEndpoint(r); err != nil {
		return nil, err
	}
	if r.Method == http.MethodHead {
		return nil, denied(http.StatusMethodNotAllowed, "invalid_request", "use GET: a backup is made for who takes it")
	}
	file, size, made, err := s.options.Backups.Take(r.Context())
	if err != nil {
		return nil, err
	}
	defer file.Close()
	setHeaders(w, "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="vault-%s.backup"`, made.Taken.Format("20060102-150405")))
	_, _ = io.Copy(w, file) // who leaves knows by the length that it is not whole
	return nil, nil
}

// restore is POST /restore.
func (s *Server) restore(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := atEndpoint(r); err != nil {
		return nil, err
	}
	var n NewRestore
	if err := readJSON(w, r, &n, "vault, encryption_keys, from, and one of audit_logs, end_all and revive"); err != nil {
		return nil, err
	}
	switch {
	case len(n.Vault) == 0:
		return nil, bad("vault is missing: send the vault module of the configuration that is to serve it, such as {\"module\": \"bbolt\", \"path\": \"/var/lib/caddy/new.db\"}")
	case n.From == "":
		return nil, bad("from is missing: name the file of the backup")
	}
	return nil, s.work(w, r, func(ctx context.Context, tell func(tokenstore.Progress)) (any, error) {
		return s.options.Backups.Restore(ctx, n, tell)
	})
}
