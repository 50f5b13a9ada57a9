package authserver

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

const (
	// rereadAfter is how long the vault is left alone when something could not be read again.
	rereadAfter = 200 * time.Millisecond

	// rereadTime bounds one reading.
	rereadTime = 10 * time.Second
)

// rereader reads something that the server keeps in memory again when it may have changed in the vault: once however many changes there are meanwhile. It gives
// up for nothing but the end of the vault, because what is missed does not hold here.
type rereader struct {
	what    string
	read    func(context.Context) error
	acquire func() (release func(), err error)
	ending  context.Context
	log     *zap.Logger

	mu      sync.Mutex
	reading bool
	again   bool
}

// changed has it read again, apart from the caller.
func (r *rereader) changed(string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.again = true; r.reading {
		return
	}
	r.reading = true
	go r.run()
}

// due reports whether there is a change that was not read yet, and begins to read it.
func (r *rereader) due() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	due := r.again
	r.again, r.reading = false, due
	return due
}

func (r *rereader) run() {
	failed := false
	for r.due() {
		err := r.readOnce()
		switch {
		case err == nil:
			failed = false
			continue
		case errors.Is(err, tokenstore.ErrClosed), r.ending.Err() != nil:
			return // reading stays set: there is nothing to read any more
		case !failed:
			r.log.Error(r.what+" cannot be read; trying again", zap.Error(err))
			failed = true
		}
		r.mu.Lock()
		r.again = true
		r.mu.Unlock()
		select {
		case <-r.ending.Done():
		case <-time.After(rereadAfter):
		}
	}
}

func (r *rereader) readOnce() error {
	release, err := r.acquire()
	if err != nil {
		return tokenstore.ErrClosed // or is being closed
	}
	defer release()
	ctx, cancel := context.WithTimeout(r.ending, rereadTime)
	defer cancel()
	return r.read(ctx)
}
