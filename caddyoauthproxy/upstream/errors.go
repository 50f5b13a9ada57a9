package upstream

import (
	"errors"
	"fmt"
	"time"
)

// Class says what a failure at a provider means.
type Class string

// The classes of failures.
const (
	// Rejected: the provider refused the code or refresh token for good
	// (invalid_grant). The user must log in again.
	Rejected Class = "rejected"

	// Misconfigured: the provider refuses the gateway itself (invalid_client, invalid_scope
	// and the like), or the configuration does not fit the provider. The operator must act; no account is lost.
	Misconfigured Class = "misconfigured"

	// Throttled: the provider asks for patience (429).
	Throttled Class = "throttled"

	// Unreachable: no answer came, or one that says nothing about the
	// request: 5xx, or a 4xx without an OAuth error code, as firewalls and load balancers give.
	Unreachable Class = "unreachable"

	// Clock: an ID token is not valid yet, or no more, because the clocks here and there disagree. The operator must act.
	Clock Class = "clock"

	// Malformed: an answer came that is not what the protocol demands. For a
	// login that includes ID tokens that do not verify.
	Malformed Class = "malformed"
)

// Classes are all of them.
func Classes() []Class {
	return []Class{Rejected, Misconfigured, Throttled, Unreachable, Clock, Malformed}
}

// Error is a failure at a provider. Its text names the provider and what was
// asked of it, and holds no secret.
type Error struct {
	// Class decides what callers do.
	Class Class

	// Code is the OAuth error code (RFC 6749 §5.2), where the provider gave one.
	Code string

	// Status is the HTTP status of the answer, zero where none came.
	Status int

	// RetryAfter is how long the provider asks to be left alone, zero where it does not say.
	RetryAfter time.Duration

	// Unknown says that the request may have been processed although no complete answer
	// came. A refresh token that was sent may have been spent.
	Unknown bool

	// Cut says, beside Unknown, that the connection ended before the answer did, so that none will come any more.
	// After a timeout it may still be under way.
	Cut bool

	// Unsent says that the request never went out: no connection came about, or what had to be known before,
	// such as the provider's documents, could not be had.
	Unsent bool

	// Local says that the failure is none of the provider's: it was not asked.
	Local bool

	// Err is what happened, in words.
	Err error
}

func (e *Error) Error() string {
	switch {
	case e.Code != "":
		return fmt.Sprintf("%v: %s (HTTP %d): %s", e.Err, e.Code, e.Status, e.Class)
	case e.Status != 0:
		return fmt.Sprintf("%v: HTTP %d: %s", e.Err, e.Status, e.Class)
	default:
		return fmt.Sprintf("%v: %s", e.Err, e.Class)
	}
}

func (e *Error) Unwrap() error { return e.Err }

// in says where an error arose. What is no *Error becomes one.
func in(where string, err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Class: Unreachable, Err: err}
	}
	placed := *e
	placed.Err = fmt.Errorf("%s: %w", where, e.Err)
	return &placed
}

var (
	// ErrNeedsReauth says that an account has no token and will get none: the user must log in again.
	ErrNeedsReauth = errors.New("the user must log in again")

	// ErrStillRejected says that the upstream refuses a token that was renewed
	// just because of it, so that renewing it once more would not help.
	ErrStillRejected = errors.New("the upstream rejects the renewed token")
)

// ReauthError is an ErrNeedsReauth that says why.
type ReauthError struct {
	// Reason is why, in words of this package: it may be shown to anybody.
	Reason string

	// Err is the cause, if there is one beside the reason.
	Err error
}

func (e *ReauthError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v: %v", e.Reason, e.Err, ErrNeedsReauth)
	}
	return fmt.Sprintf("%s: %v", e.Reason, ErrNeedsReauth)
}

// Is makes it an ErrNeedsReauth.
func (e *ReauthError) Is(target error) bool { return target == ErrNeedsReauth }

func (e *ReauthError) Unwrap() error { return e.Err }

// UnavailableError says that an account's token cannot be had at the moment,
// though the account is sound: the provider or the vault is down. Answer 503, never 401.
type UnavailableError struct {
	// RetryAfter is when to try again, at least a second.
	RetryAfter time.Duration

	// Err is the cause.
	Err error
}

// Advice says to a stranger what the cause means: nothing about the provider, and what to do.
func (e *UnavailableError) Advice() string {
	var cause *Error
	if !errors.As(e.Err, &cause) {
		return ""
	}
	switch cause.Class {
	case Throttled:
		return "the login service asks for patience; the connection is kept, try again later"
	case Unreachable:
		return "the login service cannot be reached; the connection is kept, try again later"
	case Malformed:
		return "the login service gives answers that cannot be used; the connection is kept, try again later"
	case Misconfigured:
		return "the login service does not accept this gateway; the connection is kept, tell the people who run the gateway"
	default:
		return ""
	}
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("upstream token unavailable: %v", e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// unavailable makes an UnavailableError whose wait is sensible for a Retry-After header.
func unavailable(wait time.Duration, err error) *UnavailableError {
	return &UnavailableError{RetryAfter: max(wait, time.Second), Err: err}
}
