package authserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// A callback brings a code that the provider takes once. So what comes of it must not be lost because the vault does not answer for a while, and must not
// depend on whether the browser waits: the work goes on apart from the request, tries again what the vault did not take, and whoever repeats the callback, at
// whatever node, gets its outcome.

const (
	// stuckFor is how long a browser waits once the vault has not answered. It is told to come back.
	stuckFor = time.Second

	// insistFirst and insistLast space the attempts at a vault that does not answer, and attemptTime bounds one.
	insistFirst = 100 * time.Millisecond
	insistLast  = 2 * time.Second
	attemptTime = 10 * time.Second

	// claimLook is how often a login is looked at that another node is about.
	claimLook = 250 * time.Millisecond

	// claimLapse is when nobody is about a login any more that was claimed and is not finished: its process has ended. What the provider has made of the code
	// is not known, and it is tried once more.
	claimLapse = callbackTimeout + attemptTime
)

// flights are the callbacks that are being worked on, by login and answer.
type flights struct {
	mu      sync.Mutex
	running map[string]*flight
}

// flight is the work on one callback, which all deliveries of it share.
type flight struct {
	over  chan struct{} // closed when the following two are set
	login *tokenstore.Login
	err   error

	stuck     chan struct{} // closed when the vault has not answered
	stuckOnce sync.Once
}

// errPanicked is how a flight ends that met a defect of ours.
var errPanicked = errors.New("finishing the login panicked")

// errStuck is what a browser is told while its callback is still being worked on.
func errStuck(cause error) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable", Cause: cause,
		Description: "this sign-in is still being worked on; load this page again in a moment"}
}

// takeCallback brings a callback to its end, together with whoever delivers the same one.
func (s *Server) takeCallback(ctx context.Context, loginID, answer, callback string, q url.Values) (*tokenstore.Login, error) {
	f, err := s.flight(ctx, loginID, answer, callback, q)
	if err != nil {
		return nil, err
	}
	stuck, late := f.stuck, (<-chan time.Time)(nil)
	for {
		select {
		case <-f.over:
			return f.login, f.err
		case <-stuck:
			stuck, late = nil, time.After(stuckFor)
		case <-late:
			return nil, errStuck(errors.New("the vault does not answer"))
		case <-ctx.Done():
			return nil, errStuck(ctx.Err())
		}
	}
}

// flight joins the work on a callback, or begins it.
func (s *Server) flight(ctx context.Context, loginID, answer, callback string, q url.Values) (*flight, error) {
	s.flights.mu.Lock()
	defer s.flights.mu.Unlock()
	key := loginID + " " + answer
	if f := s.flights.running[key]; f != nil {
		return f, nil
	}
	release, err := s.acquire()
	if err != nil {
		return nil, tokenstore.ErrClosed
	}
	f := &flight{over: make(chan struct{}), stuck: make(chan struct{})}
	if s.flights.running == nil {
		s.flights.running = make(map[string]*flight)
	}
	s.flights.running[key] = f
	s.tasks.Go(func() {
		defer release()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callbackTimeout)
		defer cancel()
		defer func() {
			if p := recover(); p != nil { // here it would end the process, and not one request as in a handler
				s.log.Error("finishing a login panicked", zap.Any("panic", p), zap.Stack("stack"))
				f.err = errPanicked
			}
			s.flights.mu.Lock()
			delete(s.flights.running, key)
			s.flights.mu.Unlock()
			close(f.over)
		}()
		f.login, f.err = s.finishLogin(ctx, f, loginID, answer, callback, q)
	})
	return f, nil
}

// insist does something with the vault until it answers, or ctx ends.
func (f *flight) insist(ctx context.Context, do func(context.Context) error) error {
	return f.insistOn(ctx, func(ctx context.Context) error {
		attempt, cancel := context.WithTimeout(ctx, attemptTime)
		defer cancel()
		err := do(attempt)
		if err != nil && attempt.Err() != nil {
			return fmt.Errorf("%w: %w", tokenstore.ErrUnavailable, err)
		}
		return err
	})
}

// insistOn is insist for what has a bound in time of its own.
func (f *flight) insistOn(ctx context.Context, do func(context.Context) error) error {
	for delay := insistFirst; ; delay = min(2*delay, insistLast) {
		err := do(ctx)
		if !errors.Is(err, tokenstore.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		f.stuckOnce.Do(func() { close(f.stuck) })
		if !pause(ctx, delay) {
			return err
		}
	}
}

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// loginOf reads a login that a callback is about.
func (s *Server) loginOf(ctx context.Context, f *flight, id string) (login *tokenstore.Login, err error) {
	err = f.insist(ctx, func(ctx context.Context) (err error) {
		login, err = s.vault.Login(ctx, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	return login, nil
}

// errTakenOver says that somebody else goes on with a login, which was thought to be nobody's any more.
var errTakenOver = errors.New("another node has taken the login over")

// settle commits what a login has come to. When an attempt was made whose answer was lost, the login is what that one has stored.
func (s *Server) settle(ctx context.Context, f *flight, login *tokenstore.Login, writes func(context.Context) ([]tokenstore.Write, error)) error {
	return f.insist(ctx, func(ctx context.Context) error {
		for range 5 {
			all, err := writes(ctx)
			if err != nil {
				return err
			}
			if err = s.vault.Commit(ctx, all...); !errors.Is(err, tokenstore.ErrConflict) {
				return err
			}
			stored, err := s.vault.Login(ctx, login.ID)
			switch {
			case err != nil:
				return fmt.Errorf("login: %w", err)
			case stored.Claim != login.Claim:
				return errTakenOver
			case !stored.Finished.IsZero():
				*login = *stored
				return nil
			}
		}
		return tokenstore.ErrConflict
	})
}
