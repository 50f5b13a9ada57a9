package authserver

import (
	"context"
	"sync"
	"time"
)

// judging is a context that ends within judgeTime from when somebody first waits for it. Nobody does where the vault answers from its memory, as it does for
// most requests, and to make a timer would cost these more than to look at the grant.
type judging struct {
	context.Context

	mu     sync.Mutex
	timed  context.Context // nil while nobody waits
	cancel context.CancelFunc
}

// judge is a context to judge a request in. stop is to be called in the end.
func judge(ctx context.Context) *judging { return &judging{Context: ctx} }

// bounded is the context with its time limit.
func (j *judging) bounded() context.Context {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.timed == nil {
		j.timed, j.cancel = context.WithTimeout(j.Context, judgeTime)
	}
	return j.timed
}

// now is the context as it is: that of the request while nobody waits.
func (j *judging) now() context.Context {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.timed == nil {
		return j.Context
	}
	return j.timed
}

func (j *judging) Deadline() (time.Time, bool) { return j.bounded().Deadline() }
func (j *judging) Done() <-chan struct{}       { return j.bounded().Done() }
func (j *judging) Err() error                  { return j.now().Err() }
func (j *judging) Value(key any) any           { return j.now().Value(key) }

// stop ends the timer, where there is one.
func (j *judging) stop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.cancel != nil {
		j.cancel()
	}
}
