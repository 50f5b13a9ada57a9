package bbolt

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/watch"
)

// OpenReadOnly opens a file that is there, for reading: nothing writes to it, neither this nor what is called later, which fails. Several processes may have it open so, but none that
// writes. Open says the rest.
func OpenReadOnly(path string, timeout time.Duration) (*Store, error) {
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	s := &Store{wait: maxWait, queue: make(chan *pending, 128), closed: make(chan struct{}), done: make(chan struct{})}
	s.watchers = watch.New(s.closed)
	err := s.guard(func() (err error) {
		s.db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: timeout, ReadOnly: true})
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("vault file %s: there is none: %w", path, err)
	}
	if err != nil {
		return nil, explain(path, err)
	}
	complete, err := s.readFormat()
	if err == nil && !complete {
		err = errors.New("it is empty, or of an older release; start a gateway of this release on it, or on a copy, which brings it up to date")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("vault file %s: %w", path, err), s.release())
	}
	go s.commitLoop()
	return s, nil
}
