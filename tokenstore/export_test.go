package tokenstore

import (
	"context"
	"encoding/hex"
	"time"
)

// What the tests of this package use of its inside.
var (
	KeepJob = (*Vault).keepJob
	TakeJob = (*Vault).takeJob
)

// RewriteSegment does what somebody can who has the key as well: it puts a segment of the audit trail back with its lines edited.
func RewriteSegment(ctx context.Context, v *Vault, number uint64, edit func(line []byte) []byte) error {
	seg, lines, err := v.segment(ctx, number)
	if err != nil {
		return err
	}
	for i := range lines {
		lines[i] = edit(lines[i])
	}
	if seg.Lines, err = pack(lines); err != nil {
		return err
	}
	return v.Commit(ctx, Save(seg))
}

// WithDrainTimes has a move wait for refreshes for so long.
func WithDrainTimes(m *Move, drain, settle, poll time.Duration) *Move {
	m.drain, m.settle, m.poll = drain, settle, poll
	return m
}

// WithRekeyTimes has new keys only open for so long, and rows of before be remembered for so long. It is looked for keys that are missing all the time.
func WithRekeyTimes(v *Vault, announce, forget time.Duration) *Vault {
	v.keys.rekey.announce, v.keys.rekey.forget = announce, forget
	v.keys.every = time.Nanosecond
	return v
}

// SealedBy is the id of the key that sealed a value.
func SealedBy(sealed []byte) (string, error) {
	id, err := sealedBy(sealed)
	return hex.EncodeToString(id[:]), err
}
