package tokenstore

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"
)

// A backup is
//
//	magic | size (4 bytes) | header as JSON
//	'R' | size (4 bytes) | row                               for each row
//	'T' | number of rows (8 bytes) | SHA-256 | HMAC-SHA-256
//
// The rows are as they are in the store, sealed. All of a kind come together, ordered by id, and those of the keyring first. The SHA-256 is that of all before it, and shows
// to everybody whether a copy is whole. The HMAC is that of the SHA-256, with a key that is derived in the vault: only who has the encryption key can make one.
const (
	backupMagic  = "oauth-proxy vault backup\n"
	backupFormat = 1
	backupRow    = 'R'
	backupEnd    = 'T'

	maxBackupHeader = 4 << 10
	maxBackupRow    = MaxSealed + 16<<10

	purposeBackup Purpose = "vault_backup"
)

// ErrBackup is the error of a backup that cannot be used. What wraps it says why.
var ErrBackup = errors.New("the backup cannot be used")

func noBackup(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrBackup, fmt.Errorf(format, args...))
}

// BackupHeader is what a backup says of itself.
type BackupHeader struct {
	// Format is the version of its form.
	Format int `json:"format"`

	// Vault tells the vault from all others, see Vault.Identity.
	Vault string `json:"vault"`

	// Taken is the moment that it is of.
	Taken time.Time `json:"taken"`
}

// Backup is what a backup holds.
type Backup struct {
	BackupHeader

	// SHA256 is that of all before it, in hex. It tells this backup from all others.
	SHA256 string `json:"sha256"`

	// Rows is how many rows there are, and Kinds which.
	Rows  int                 `json:"rows"`
	Kinds map[Kind]KindDigest `json:"kinds"`
}

// String names the backup to people.
func (b *Backup) String() string {
	return fmt.Sprintf("the backup of %s (%.12s)", b.Taken.Format(time.RFC3339), b.SHA256)
}

// digests counts and hashes the rows of each kind.
type digests struct {
	rows  int
	kinds map[Kind]KindDigest
	kind  Kind
	hash  hash.Hash
}

func newDigests() *digests { return &digests{kinds: make(map[Kind]KindDigest), hash: sha256.New()} }

// add takes a row, in the form of appendRow. All of a kind come together.
func (d *digests) add(kind Kind, row []byte) {
	if kind != d.kind {
		d.endKind()
		d.kind = kind
	}
	d.hash.Write(row)
	k := d.kinds[kind]
	k.Rows++
	d.kinds[kind] = k
	d.rows++
}

func (d *digests) endKind() {
	if k, ok := d.kinds[d.kind]; ok {
		k.SHA256 = hex.EncodeToString(d.hash.Sum(nil))
		d.kinds[d.kind] = k
	}
	d.hash.Reset()
}

// backup is what was digested.
func (d *digests) backup(h BackupHeader, sum []byte) *Backup {
	d.endKind()
	for _, kind := range Kinds() {
		if _, ok := d.kinds[kind]; !ok {
			d.hash.Reset()
			d.kinds[kind] = KindDigest{SHA256: hex.EncodeToString(d.hash.Sum(nil))}
		}
	}
	return &Backup{BackupHeader: h, SHA256: hex.EncodeToString(sum), Rows: d.rows, Kinds: d.kinds}
}

// WriteBackup writes all rows of the store that the vault is in, as of one moment, and returns what was written. Nothing is opened but the keyring:
// of a backup in which that is damaged nothing would ever open.
func (v *Vault) WriteBackup(ctx context.Context, from Movable, w io.Writer, tell func(Progress)) (*Backup, error) {
	totals := make(map[Kind]int)
	for _, kind := range Kinds() {
		n, err := from.Count(ctx, kind)
		if err != nil {
			return nil, err
		}
		totals[kind] = n
	}
	header := BackupHeader{Format: backupFormat, Vault: v.Identity(), Taken: v.now().UTC().Truncate(time.Millisecond)}
	plain, err := json.Marshal(header)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	buffered := bufio.NewWriterSize(w, 64<<10)
	out := io.MultiWriter(buffered, sum)
	if _, err := out.Write(appendSized([]byte(backupMagic), string(plain))); err != nil {
		return nil, err
	}
	d := newDigests()
	var b []byte
	var ring *keyring
	err = from.Snapshot(ctx, func(row Row) (err error) {
		if row.Kind == KindKeyring && row.ID == keyringRow {
			if ring, err = v.openRingRow(row); err != nil {
				return fmt.Errorf("a backup would be of no use, since the vault's keys in it could not be opened: %w", err)
			}
		}
		b = appendRow(append(b[:0], backupRow, 0, 0, 0, 0), row)
		binary.BigEndian.PutUint32(b[1:], uint32(len(b)-5)) //nolint:gosec // bounded by maxBackupRow
		d.add(row.Kind, b[5:])
		if n := d.kinds[row.Kind].Rows; tell != nil && (n == 1 || n%moveRows == 0) {
			tell(Progress{Step: BackupReading, Kind: row.Kind, Done: n, Total: max(n, totals[row.Kind])})
		}
		_, err = out.Write(b)
		return err
	})
	if err == nil && ring == nil {
		err = fmt.Errorf("a backup would be of no use: %w: the vault's keys are not in its storage", ErrTampered)
	}
	if err != nil {
		return nil, err
	}
	if _, err := out.Write(binary.BigEndian.AppendUint64([]byte{backupEnd}, uint64(d.rows))); err != nil { //nolint:gosec // a count
		return nil, err
	}
	made := d.backup(header, sum.Sum(nil))
	if _, err := buffered.Write(append(sum.Sum(nil), backupMAC(ring, sum.Sum(nil))...)); err != nil {
		return nil, err
	}
	return made, buffered.Flush()
}

// BackupReading is the step of a backup in which the rows are read.
const BackupReading Step = "reading"

func backupMAC(ring *keyring, sum []byte) []byte {
	h := hmac.New(sha256.New, []byte(ring.derive.sum(string(purposeBackup))))
	h.Write(sum)
	return h.Sum(nil)
}

// appendRow appends a row in a form that says everything of it, the same for rows that are the same.
func appendRow(b []byte, row Row) []byte {
	b = appendSized(appendSized(b, string(row.Kind)), row.ID)
	b = binary.BigEndian.AppendUint64(b, row.Version)
	b = appendSized(b, row.State)
	b = binary.BigEndian.AppendUint64(b, uint64(len(row.Refs)))
	for _, ref := range slices.Sorted(slices.Values(row.Refs)) {
		b = appendSized(b, ref)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(millis(row.Due)))         //nolint:gosec // any bits will do
	b = binary.BigEndian.AppendUint64(b, uint64(millis(row.DeleteAfter))) //nolint:gosec // any bits will do
	b = binary.BigEndian.AppendUint64(b, uint64(len(row.Sealed)))
	return append(b, row.Sealed...)
}
