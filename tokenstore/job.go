package tokenstore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Job is work that one process does for all of a vault. Its ID says which.
type Job struct {
	Meta

	// Owner is a random id of who does it now, empty while nobody does. Until is when others may take it over.
	Owner string    `json:"owner,omitempty"`
	Until time.Time `json:"until,omitzero"`

	// Began is when it was last begun and came to its end; zero while it never did.
	Began time.Time `json:"began,omitzero"`
}

func (*Job) layout() layout { return layout{kind: KindJob, use: useTxn} }

// jobLease is for how long a job is one process's. It is renewed while the work goes on, so that what a process leaves when it dies is soon taken over.
const jobLease = 2 * time.Minute

var errJobLost = errors.New("another process has taken the job over")

// RunJob does the work of a job, unless another process does it now or it was begun less than so long ago. It reports whether it did. The context of the work ends
// when its time is lost to another process. Work that fails is due again at once. Errors are those of the work, and of the store.
func (v *Vault) RunJob(ctx context.Context, name string, every time.Duration, work func(context.Context) error) (ran bool, err error) {
	job, err := v.takeJob(ctx, name, every)
	if job == nil || err != nil {
		return false, err
	}
	began := v.now()
	working, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		v.keepJob(working, job, jobLease/4, cancel)
	}()
	err = work(working)
	if lost := context.Cause(working); errors.Is(lost, errJobLost) {
		err = errors.Join(fmt.Errorf("job %s: %w", name, lost), err)
	}
	cancel(nil)
	<-kept
	if err == nil {
		job.Began = began
	}
	owner := job.Owner
	job.Owner, job.Until = "", time.Time{}
	given, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second) // also when ctx has ended: nobody is to wait for the lease
	defer end()
	if e := v.Commit(given, Save(job)); e != nil && !errors.Is(e, ErrConflict) {
		v.jobsKept.Store(name, owner)
		err = errors.Join(err, fmt.Errorf("job %s: %w", name, e))
	}
	return true, err
}

// JobBegan is when a job was last begun that came to its end, in whatever process; zero when none did.
func (v *Vault) JobBegan(ctx context.Context, name string) (time.Time, error) {
	job, err := load(ctx, v, new(Job), name)
	if errors.Is(err, ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("job %s: %w", name, err)
	}
	return job.Began, nil
}

// takeJob takes a job that is due, nil when it is not or somebody else has it.
func (v *Vault) takeJob(ctx context.Context, name string, every time.Duration) (*Job, error) {
	now := v.now()
	job, err := load(ctx, v, new(Job), name)
	if kept, _ := v.jobsKept.Load(name); err == nil && job.Owner != "" && job.Owner == kept {
		job.Owner, job.Until = "", time.Time{} // as it would have been given back
	}
	switch {
	case errors.Is(err, ErrNotFound):
		job = &Job{Meta: Meta{ID: name}}
	case err != nil:
		return nil, fmt.Errorf("job %s: %w", name, err)
	case job.Owner != "" && now.Before(job.Until) && !job.Until.After(now.Add(2*jobLease)),
		job.Owner == "" && !job.Began.IsZero() && now.Before(job.Began.Add(every)) && !job.Began.After(now.Add(jobLease)):
		return nil, nil // times further ahead are of a clock that was put back
	}
	job.Owner, job.Until = NewID(now), now.Add(jobLease)
	err = v.Commit(ctx, Save(job))
	switch {
	case errors.Is(err, ErrConflict):
		return nil, nil // another process was faster
	case err != nil:
		return nil, fmt.Errorf("job %s: %w", name, err)
	}
	return job, nil
}

// keepJob renews a job's lease at every interval until ctx ends, and ends the work when it is lost.
func (v *Vault) keepJob(ctx context.Context, job *Job, interval time.Duration, lost context.CancelCauseFunc) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		until := job.Until
		job.Until = v.now().Add(jobLease)
		if err := v.Commit(context.WithoutCancel(ctx), Save(job)); err != nil { // cut off, nobody would know whether it was made
			if job.Until = until; errors.Is(err, ErrConflict) || !v.now().Before(until) {
				lost(errJobLost)
				return
			}
		}
	}
}
