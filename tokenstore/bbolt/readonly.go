package bbolt

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// OpenReadOnly opens a file that is there, for reading: nothing writes to it, neither this nor what is called later, which fails. Several processes may have it open so, but none that
// writes. Open says the rest.
func OpenReadOnly(path string, timeout time.Duration) (*Store, error) {
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	s := newStore()
	err := s.guard(func() error { return s.openAt(path, timeout, true) })
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
