package tokenstore

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"slices"
	"time"
)

// BackupReader reads a backup row by row, and holds one in memory at a time.
type BackupReader struct {
	header  BackupHeader
	in      *bufio.Reader
	sum     hash.Hash
	digests *digests
	at      int64 // how much was read
	last    Row
	frame   []byte

	whole     *Backup
	hash, mac []byte // of a whole one
}

// ReadBackup begins to read a backup. Errors of this and of Next are ErrBackup, and those of r.
func ReadBackup(r io.Reader) (*BackupReader, error) {
	b := &BackupReader{in: bufio.NewReaderSize(r, 64<<10), sum: sha256.New(), digests: newDigests()}
	magic := make([]byte, len(backupMagic))
	if err := b.read(magic); err != nil || string(magic) != backupMagic {
		if err != nil && !errors.Is(err, ErrBackup) {
			return nil, err
		}
		return nil, noBackup("it is no backup of a vault; those are made with caddy oauth-proxy backup")
	}
	plain, err := b.sized(maxBackupHeader)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(plain, &b.header); err != nil || b.header.Format < 1 {
		return nil, noBackup("its header cannot be read: it was changed, or damaged")
	}
	if b.header.Format > backupFormat {
		return nil, noBackup("it is of format %d, and this release reads up to %d: use the release that made it, or a newer one", b.header.Format, backupFormat)
	}
	return b, nil
}

// Header is what the backup says of itself. It is not to be trusted before CheckBackup has read all of it.
func (b *BackupReader) Header() BackupHeader { return b.header }

// Next returns the next row, and io.EOF behind the last of a backup that is whole. The row is the caller's until the next call.
func (b *BackupReader) Next() (*Row, error) {
	if b.whole != nil {
		return nil, io.EOF
	}
	var what [1]byte
	if err := b.read(what[:]); err != nil {
		return nil, err
	}
	switch what[0] {
	case backupRow:
	case backupEnd:
		return nil, b.end()
	default:
		return nil, b.damaged()
	}
	frame, err := b.sized(maxBackupRow)
	if err != nil {
		return nil, err
	}
	row, ok := decodeBackupRow(frame)
	if !ok {
		return nil, b.damaged()
	}
	if !slices.Contains(Kinds(), row.Kind) {
		return nil, noBackup("it has rows of the kind %q, which this release does not know: use the release that made it, or a newer one", clip(string(row.Kind)))
	}
	if err := CheckImport(row.Kind, []Row{row}, nil); err != nil {
		return nil, fmt.Errorf("%w: %w", b.damaged(), err)
	}
	_, again := b.digests.kinds[row.Kind]
	switch {
	case row.Kind == b.last.Kind && row.ID <= b.last.ID, row.Kind != b.last.Kind && again, b.digests.rows == 0 && row.Kind != KindKeyring:
		return nil, fmt.Errorf("%w: %s %s is not where it belongs", b.damaged(), row.Kind, row.ID)
	}
	b.digests.add(row.Kind, frame)
	b.last = Row{Kind: row.Kind, ID: row.ID}
	return &row, nil
}

// end reads what is behind the last row.
func (b *BackupReader) end() error {
	var rows [8]byte
	if err := b.read(rows[:]); err != nil {
		return err
	}
	want := b.sum.Sum(nil)
	var sums [2 * sha256.Size]byte
	if err := b.read(sums[:]); err != nil {
		return err
	}
	if !bytes.Equal(want, sums[:sha256.Size]) {
		return b.damaged()
	}
	if n := binary.BigEndian.Uint64(rows[:]); n != uint64(b.digests.rows) { //nolint:gosec // a count
		return fmt.Errorf("%w: it says that it has %d rows, and has %d", b.damaged(), n, b.digests.rows)
	}
	if _, err := b.in.ReadByte(); err == nil {
		return noBackup("something follows behind its end: it was changed")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	b.hash, b.mac, b.whole = want, sums[sha256.Size:], b.digests.backup(b.header, want)
	return io.EOF
}

func (b *BackupReader) damaged() error {
	return noBackup("it was changed, or damaged, in or behind row %d: take another copy of it, or another backup", b.digests.rows+1)
}

// read fills p, and hashes it.
func (b *BackupReader) read(p []byte) error {
	if _, err := io.ReadFull(b.in, p); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return noBackup("it is cut off behind row %d: copy it again, or take another backup", b.digests.rows)
		}
		return fmt.Errorf("read the backup: %w", err)
	}
	b.sum.Write(p)
	b.at += int64(len(p))
	return nil
}

// sized reads what its size stands before. It is valid until the next call.
func (b *BackupReader) sized(most uint32) ([]byte, error) {
	var size [4]byte
	if err := b.read(size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > most {
		return nil, b.damaged()
	}
	b.frame = slices.Grow(b.frame[:0], int(n))[:n]
	return b.frame, b.read(b.frame)
}

// CheckBackup reads a backup to its end, and says whether it is whole, and, with the root keys that its vault may be encrypted with, whether the vault made it. Errors: ErrBackup,
// ErrWrongKey, and those of r. Without keys, who can write to the file could have written all of it.
func CheckBackup(ctx context.Context, r io.Reader, keys []RootKey, tell func(Progress)) (*Backup, error) {
	return checkBackup(ctx, r, keys, tell, func(*Row, int64) {})
}

// checkBackup is CheckBackup, which calls visit with each row and where it begins.
func checkBackup(ctx context.Context, r io.Reader, keys []RootKey, tell func(Progress), visit func(row *Row, at int64)) (*Backup, error) {
	b, err := ReadBackup(r)
	if err != nil {
		return nil, err
	}
	var ring *keyring
	for {
		at := b.at
		row, err := b.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		visit(row, at)
		if n := b.digests.rows; tell != nil && n%moveRows == 0 {
			tell(Progress{Step: BackupChecking, Done: n, Total: n})
		}
		if row.Kind == KindKeyring && row.ID == keyringRow && len(keys) > 0 {
			if ring, err = b.openRing(*row, keys); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case len(keys) == 0:
		return b.whole, nil
	case ring == nil:
		return nil, noBackup("the keys of the vault are not in it")
	case !hmac.Equal(b.mac, backupMAC(ring, b.hash)):
		return nil, noBackup("its signature is not of this vault: it was changed")
	default:
		return b.whole, nil
	}
}

// BackupChecking is the step in which a backup is read to its end.
const BackupChecking Step = "checking"

func (b *BackupReader) openRing(row Row, keys []RootKey) (*keyring, error) {
	stored, _, err := unsealRing(row, keys)
	if errors.Is(err, ErrTampered) {
		return nil, noBackup("%w", err)
	}
	if err != nil {
		return nil, err
	}
	ring, err := newKeyring(stored)
	if err != nil {
		return nil, noBackup("%w", err)
	}
	if identity := ring.identity(); identity != b.header.Vault {
		return nil, noBackup("its header is of another vault: it was changed")
	}
	return ring, nil
}

// decodeBackupRow reads what appendRow has written.
func decodeBackupRow(frame []byte) (row Row, ok bool) {
	d := frameDecoder{rest: frame, ok: true}
	row.Kind, row.ID = Kind(d.sized()), string(d.sized())
	row.Version = d.uint64()
	row.State = string(d.sized())
	refs := d.uint64()
	if refs > maxRefs {
		return row, false
	}
	for range refs {
		row.Refs = append(row.Refs, string(d.sized()))
	}
	row.Due, row.DeleteAfter = d.time(), d.time()
	if size := d.uint64(); size != uint64(len(d.rest)) {
		return row, false
	}
	row.Sealed = bytes.Clone(d.rest)
	return row, d.ok
}

// frameDecoder takes a row apart. After the first part that is cut short, all others are empty.
type frameDecoder struct {
	rest []byte
	ok   bool
}

func (d *frameDecoder) take(n int) []byte {
	if !d.ok || n > len(d.rest) {
		d.ok = false
		return make([]byte, n)
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *frameDecoder) uint64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }

func (d *frameDecoder) sized() []byte {
	n := binary.BigEndian.Uint32(d.take(4))
	if n > MaxKey {
		d.ok = false
		return nil
	}
	return d.take(int(n))
}

func (d *frameDecoder) time() time.Time {
	ms := d.uint64()
	if ms > math.MaxInt64 {
		d.ok = false
		return time.Time{}
	}
	return fromMillis(int64(ms))
}
