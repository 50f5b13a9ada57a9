package operator

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Migrations move the vault to another store.
type Migrations struct {
	// Begin begins a migration, or goes on with it. Show is how far the last one is, and Abort ends it, and has the vault written again. What the operator can
	// do something about is an error of Conflict.
	Begin func(context.Context, NewMigration) (*Migration, error)
	Show  func(context.Context) (*Migration, error)
	Abort func(context.Context) (*Migration, error)
}

// NewMigration says where the vault is to be moved.
type NewMigration struct {
	// Vault is the vault module of the new configuration, with its placeholders, and EncryptionKeys are its keys, as placeholders or with a source, which must open this vault.
	Vault          json.RawMessage   `json:"vault"`
	EncryptionKeys []json.RawMessage `json:"encryption_keys,omitempty"`

	// DryRun only says whether it can be done.
	DryRun bool `json:"dry_run,omitempty"`
}

// MigrationState is how a migration does.
type MigrationState string

// The states of migrations.
const (
	MigrationNone        MigrationState = "none"        // there was none since the process began
	MigrationReady       MigrationState = "ready"       // it could be begun: the answer to a dry run
	MigrationRunning     MigrationState = "running"     // it goes on
	MigrationDone        MigrationState = "done"        // the copy was compared, and can be served
	MigrationFailed      MigrationState = "failed"      // it ended with an error, or was aborted
	MigrationInterrupted MigrationState = "interrupted" // the vault is read-only, and nobody in this process moves it
)

// Migration is how a migration does.
type Migration struct {
	State MigrationState `json:"state"`

	// From and To are the stores, and Copy says that To has an older copy already, or a part of one.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	Copy bool   `json:"copy,omitempty"`

	Began time.Time `json:"began,omitzero"`
	Ended time.Time `json:"ended,omitzero"`

	// ReadOnly is why the vault cannot be written now, empty where it can be.
	ReadOnly string `json:"read_only,omitempty"`

	// Progress is of one that runs, Error of one that failed, and Kinds what was compared.
	Progress *tokenstore.Progress   `json:"progress,omitempty"`
	Error    string                 `json:"error,omitempty"`
	Kinds    []tokenstore.MovedKind `json:"kinds,omitempty"`
}

// Conflict is a refusal that the operator can do something about: 409, with words.
func Conflict(description string) error {
	return denied(http.StatusConflict, "invalid_request", description)
}

type endpointKey struct{}

// atEndpoint refuses what is only for Caddy's admin endpoint: who may name any file and any server there could load any configuration as well.
func atEndpoint(r *http.Request) error {
	if r.Context().Value(endpointKey{}) == nil {
		return denied(http.StatusForbidden, "access_denied", "this is done through Caddy's admin endpoint alone: use the commands of caddy oauth-proxy")
	}
	return nil
}

// showMigration is GET /migration.
func (s *Server) showMigration(_ http.ResponseWriter, r *http.Request) (any, error) {
	if err := atEndpoint(r); err != nil {
		return nil, err
	}
	return s.options.Migrations.Show(r.Context())
}

// beginMigration is POST /migration. It is answered 202 when the migration has begun; 200 is the answer to a dry run.
func (s *Server) beginMigration(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := atEndpoint(r); err != nil {
		return nil, err
	}
	var body NewMigration
	if err := readJSON(w, r, &body, "vault, encryption_keys and dry_run"); err != nil {
		return nil, err
	}
	if len(body.Vault) == 0 {
		return nil, bad("vault is missing: send the vault module of the new configuration, such as {\"module\": \"bbolt\", \"path\": \"/var/lib/caddy/new.db\"}")
	}
	m, err := s.options.Migrations.Begin(r.Context(), body)
	if err != nil || body.DryRun {
		return m, err
	}
	writeJSON(w, http.StatusAccepted, m)
	return nil, nil
}

// abortMigration is DELETE /migration.
func (s *Server) abortMigration(_ http.ResponseWriter, r *http.Request) (any, error) {
	if err := atEndpoint(r); err != nil {
		return nil, err
	}
	return s.options.Migrations.Abort(r.Context())
}
