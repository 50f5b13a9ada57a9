package postgres

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Codes of PostgreSQL's errors, its appendix A.
const (
	codeProtocolViolation  = "08P01"
	codePlanChanged        = "0A000" // or something else that is not supported
	codeReadOnly           = "25006"
	codeNoStatement        = "26000"
	codeNotAuthorized      = "28000"
	codeWrongPassword      = "28P01"
	codeNoDatabase         = "3D000"
	codeNotSerializable    = "40001"
	codeDeadlock           = "40P01"
	codeStatementThere     = "42P05"
	codeNoPrivilege        = "42501"
	codeUndefinedColumn    = "42703"
	codeUndefinedFunction  = "42883"
	codeUndefinedTable     = "42P01"
	codeTooManyConnections = "53300"
	codeNoLock             = "55P03"
	codeCanceled           = "57014"
	codeShutdown           = "57P01"
	codeCrash              = "57P02"
	codeStarting           = "57P03"
	codeDatabaseDropped    = "57P04"
	codeIdle               = "57P05"
	codeDataCorrupted      = "XX001"
	codeIndexCorrupted     = "XX002"
)

// refusal is an error that waiting does not help against, in words for the operator.
type refusal struct{ error }

func refused(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// code is that of PostgreSQL's error, or empty when it did not come from there.
func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

func undefined(err error) bool {
	c := code(err)
	return c == codeUndefinedTable || c == codeUndefinedColumn
}

// unreachable reports whether an error says that the database cannot be reached at the moment, or that this connection to it was lost. What was asked may have been done.
func unreachable(err error) bool {
	if errors.As(err, new(refusal)) || errors.Is(err, tokenstore.ErrConflict) || errors.Is(err, tokenstore.ErrNotFound) {
		return false
	}
	switch c := code(err); c {
	case "": // of the network
		return !misconfigured(err)
	case codeShutdown, codeCrash, codeStarting, codeIdle, codeTooManyConnections, codeReadOnly:
		return true
	default:
		return strings.HasPrefix(c, "08") && c != codeProtocolViolation
	}
}

// telling reports whether an error is what the server said, or is about it, and not only that nothing was heard.
func telling(err error) bool { return code(err) != "" || errors.Is(err, errReadOnlyServer) }

// collided reports whether others were in the way, and all was undone; or a statement must be prepared anew, which happens when it is tried again.
func collided(err error) bool {
	switch code(err) {
	case codeNotSerializable, codeDeadlock, codeNoStatement, codePlanChanged:
		return true
	default:
		return false
	}
}

// misconfigured reports whether no connection can be made before somebody changes something: TLS, or the password's file.
func misconfigured(err error) bool {
	var wrongName x509.HostnameError
	var invalid x509.CertificateInvalidError
	var authority x509.UnknownAuthorityError
	return errors.As(err, &wrongName) || errors.As(err, &invalid) || errors.As(err, &authority) || errors.As(err, new(passwordError)) || refusesTLS(err)
}

// refusesTLS reports whether the server has no TLS, and that is why there is no connection: where the connection string leaves it open (no sslmode), it was
// then tried without, and what the server said to that counts.
func refusesTLS(err error) bool {
	return err != nil && code(err) == "" && strings.Contains(err.Error(), "server refused TLS connection")
}

// passwordError says that there is no password to connect with.
type passwordError struct{ error }

func (e passwordError) Unwrap() error { return e.error }

// translate turns an error into the contract's. ctx is the caller's.
func translate(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, tokenstore.ErrConflict), errors.Is(err, tokenstore.ErrNotFound), errors.Is(err, tokenstore.ErrUnavailable), errors.Is(err, tokenstore.ErrClosed):
		return err
	case code(err) == codeDataCorrupted, code(err) == codeIndexCorrupted:
		return fmt.Errorf("%w: %w", tokenstore.ErrDamaged, explain(err))
	default:
		return fmt.Errorf("%w: %w", tokenstore.ErrUnavailable, explain(err))
	}
}

// explain says what to do about an error.
func explain(err error) error {
	var hint string
	switch c := code(err); {
	case errors.As(err, new(refusal)):
		return err
	case errors.As(err, new(passwordError)):
		hint = "there is no password to connect with"
	case refusesTLS(err):
		hint = "the server does not speak TLS; switch it on there (ssl = on), or, in a network that nobody else reads, set sslmode=disable"
	case misconfigured(err):
		hint = "the server's certificate is not trusted; name the authority that signed it (sslrootcert), and the server as the certificate does"
	case c == codeWrongPassword:
		hint = "the server refuses the password; check the user and the password"
	case c == codeNotAuthorized:
		hint = "the server does not let this user in from here; check the user, and pg_hba.conf on the server"
	case c == codeNoDatabase:
		hint = "there is no such database; make it (CREATE DATABASE … OWNER …), or name another"
	case c == codeNoPrivilege:
		hint = "the user lacks a privilege; it needs USAGE on the schema, and SELECT, INSERT, UPDATE and DELETE on its tables, or to own them"
	case c == codeReadOnly || errors.Is(err, errReadOnlyServer):
		hint = "the server is a read-only standby; name the primary, or all hosts, of which the one that can be written is taken"
	case c == codeTooManyConnections:
		hint = "the server has no connection left; lower the pool, or raise max_connections there"
	case c == codeNoStatement, c == codeStatementThere, c == codeProtocolViolation:
		hint = "is there a proxy that gives every transaction another connection? Then add default_query_exec_mode=exec to the connection string"
	case c == codeUndefinedTable, c == codeUndefinedFunction, c == codeUndefinedColumn:
		hint = "the schema lacks something that was there; restore it from a backup"
	case c == codeCanceled:
		hint = "the server took too long"
	case c == codeNoLock:
		hint = "somebody holds a lock on the vault's tables"
	case c == codeDataCorrupted, c == codeIndexCorrupted:
		hint = "the database is damaged; look at the disk, and restore it from a backup"
	case c == codeDatabaseDropped:
		hint = "the database was dropped"
	default:
		return err
	}
	return fmt.Errorf("%s: %w", hint, err)
}
