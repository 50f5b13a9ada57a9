// Package tokenstore is the vault: it keeps clients, logins, codes, grants,
// accounts, API keys, signing keys and the audit trail, and is the only place
// that knows how they are encrypted.
//
// It has two layers. A [Store] keeps opaque rows and is implemented by bbolt
// (one process, one file) and, for several nodes, by a database. A [Vault]
// stands on a Store and turns records into sealed rows and back.
//
// # Sealing
//
// Every record is encrypted whole. In clear stay only the row's key, version,
// state, references and deletion time, and those are repeated inside and
// compared when the record is opened. The additional data of the encryption
// names the vault, the purpose, the kind, the key and the version, so no value
// can be moved to another row or replaced by an older one of the same row.
//
// Secrets that are only ever compared (codes, login states, client secrets,
// refresh tokens, API keys) are stored as keyed hashes.
//
// # Audit trail
//
// An [Event] is committed together with what it tells of, so that nothing that
// was acknowledged can be missing from the trail. Soon after, events are moved
// into a chain of segments, each with the hash of the one before, which
// [Vault.VerifyAudit] walks.
//
// # Concurrency
//
// There are no transactions to hold open. [Vault.Commit] makes several changes
// together or none, and every change is a compare-and-swap on the record's
// version: who loses gets [ErrConflict], reads again, and decides again.
package tokenstore
