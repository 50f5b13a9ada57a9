package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// FaultClass is a sort of faults, which all mean much the same.
type FaultClass string

// The classes of faults.
const (
	FaultSealed     FaultClass = "sealed"     // a record does not open, or what stands beside it in clear is not what it says
	FaultUnreadable FaultClass = "unreadable" // a row cannot be read at all
	FaultIndex      FaultClass = "index"      // a row is not found by what it should be, or something else is
	FaultCount      FaultClass = "count"      // a number of rows that the storage keeps is another than there are
	FaultStorage    FaultClass = "storage"    // what is underneath the rows
	FaultAudit      FaultClass = "audit"      // the audit trail
	FaultReference  FaultClass = "reference"  // a record names another one that is not there
)

// Fault is something wrong in a vault, or, among remarks, something that may be.
type Fault struct {
	// Class is its sort.
	Class FaultClass `json:"class"`

	// Kind and ID are those of the row that it was found at, empty where it was at none. The id says nothing secret.
	Kind Kind   `json:"kind,omitempty"`
	ID   string `json:"id,omitempty"`

	// Problem says in words what is wrong, and Advice what that means and what to do.
	Problem string `json:"problem"`
	Advice  string `json:"advice"`
}

// VerifiedKind is what was found of the rows of one kind.
type VerifiedKind struct {
	Kind Kind `json:"kind"`

	// Rows is how many were read, and Damaged how many of them do not open.
	Rows    int `json:"rows"`
	Damaged int `json:"damaged"`
}

// Verification is what Verify found.
type Verification struct {
	// Vault is the identity of the vault, see Vault.Identity.
	Vault string `json:"vault"`

	// Began and Ended are when, by the vault's clock.
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`

	// Records are the kinds of rows.
	Records []VerifiedKind `json:"records"`

	// Audit is what was found of the audit trail, nil where it could not be read. Its faults are among Faults as well.
	Audit *AuditReport `json:"audit,omitempty"`

	// Faults is what is wrong, 200 at most; MoreFaults is how many are not listed.
	Faults     []Fault `json:"faults"`
	MoreFaults int     `json:"more_faults,omitempty"`

	// Remarks are what the clean-up or a crash explains, but somebody may want to know of; 200 at most, and MoreRemarks beyond these.
	Remarks     []Fault `json:"remarks"`
	MoreRemarks int     `json:"more_remarks,omitempty"`
}

// Whole reports whether nothing is wrong. Remarks do not count.
func (r *Verification) Whole() bool { return len(r.Faults) == 0 }

// The steps of a verification.
const (
	VerifyStorage Step = "checking storage"
	VerifyIndexes Step = "checking indexes"
	VerifyRecords Step = "opening records"
	VerifyTrail   Step = "checking audit trail"
)

const (
	// maxListed bounds each list of a Verification.
	maxListed = 200

	// maxUnreadable bounds how many rows that cannot be read are known by their ids, so that those behind them can be.
	maxUnreadable = 10_000
)

// Verify reads the whole vault, and says what is wrong in it: rows that do not open or cannot be read, clear columns that are not as sealed, indexes that do not fit the
// rows, and the audit trail, see VerifyAudit. It never ends at a fault, and changes nothing but that rows which do not open are noted in the audit trail, as whenever
// one is met. Meanwhile the vault may be used: what changes is read again before a fault is told. The error is that of a store that cannot be asked.
//
// In memory it has a page of rows, eight bytes of each account, and what VerifyAudit has.
func (v *Vault) Verify(ctx context.Context, progress func(Progress)) (*Verification, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	c := &verification{
		vault: v, tell: progress, unreadable: make(map[Kind][]string),
		report: &Verification{Vault: v.Identity(), Began: v.now().UTC(), Faults: []Fault{}, Remarks: []Fault{}},
	}
	steps := []func(context.Context) error{c.storage, c.records, c.trail}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	c.report.Ended = v.now().UTC()
	return c.report, nil
}

// verification is one under way.
type verification struct {
	vault  *Vault
	tell   func(Progress)
	report *Verification

	unreadable map[Kind][]string // ids of rows that cannot be read, sorted
	unnamed    int               // how many more there are
	accounts   idSet
}

func (c *verification) fault(f Fault) {
	if len(c.report.Faults) >= maxListed {
		c.report.MoreFaults++
		return
	}
	f.ID, f.Advice = clip(f.ID), f.advice()
	c.report.Faults = append(c.report.Faults, f)
}

func (c *verification) remark(f Fault) {
	if len(c.report.Remarks) >= maxListed {
		c.report.MoreRemarks++
		return
	}
	f.ID, f.Advice = clip(f.ID), f.advice()
	c.report.Remarks = append(c.report.Remarks, f)
}

// storage has the store check what is its own.
func (c *verification) storage(ctx context.Context) error {
	err := c.vault.store.Check(ctx, func(f StoreFault) {
		if f.Class == FaultUnreadable && f.ID != "" {
			c.note(f.Kind, f.ID)
		}
		c.fault(Fault{Class: f.Class, Kind: f.Kind, ID: f.ID, Problem: f.Problem})
	}, c.tell)
	if errors.Is(err, ErrDamaged) {
		c.fault(Fault{Class: FaultStorage, Problem: fmt.Sprintf("the storage cannot be checked to its end: %v", err)})
		return nil
	}
	return err
}

// trail checks the audit trail.
func (c *verification) trail(ctx context.Context) error {
	c.tell(Progress{Step: VerifyTrail, Total: 1})
	report, err := c.vault.VerifyAudit(ctx, "")
	if errors.Is(err, ErrDamaged) {
		c.fault(Fault{Class: FaultAudit, Problem: fmt.Sprintf("the audit trail cannot be read to its end: %v", err)})
		return nil
	}
	if err != nil {
		return err
	}
	c.report.Audit = report
	for _, f := range report.Faults {
		fault := Fault{Class: FaultAudit, Problem: f.Problem}
		switch {
		case f.Event != "":
			fault.Kind, fault.ID = KindEvent, f.Event
		case f.Segment != 0:
			fault.Kind, fault.ID = KindAuditSegment, segmentID(f.Segment)
		}
		c.fault(fault)
	}
	c.tell(Progress{Step: VerifyTrail, Done: 1, Total: 1})
	return nil
}
