package authserver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

type judgingKey struct{}

func TestJudgingEndsForThoseWhoWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		j := judge(context.WithValue(t.Context(), judgingKey{}, "value"))
		defer j.stop()
		if j.Err() != nil || j.Value(judgingKey{}) != "value" || j.timed != nil {
			t.Fatalf("%v, value %v, timer %v; want no timer before somebody waits", j.Err(), j.Value(judgingKey{}), j.timed)
		}
		child, cancel := context.WithTimeout(j, time.Hour)
		defer cancel()
		<-child.Done()
		if took := time.Since(began); took != judgeTime || !errors.Is(child.Err(), context.DeadlineExceeded) || !errors.Is(j.Err(), context.DeadlineExceeded) {
			t.Errorf("ended after %v with %v and %v; want the deadline after %v", took, child.Err(), j.Err(), judgeTime)
		}
		if child.Value(judgingKey{}) != "value" {
			t.Error("the request's values are gone")
		}
	})
}

func TestJudgingEndsWithItsRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		request, leave := context.WithCancel(t.Context())
		waiting, idle := judge(request), judge(request)
		defer waiting.stop()
		defer idle.stop()
		done := waiting.Done()
		leave()
		<-done
		if !errors.Is(waiting.Err(), context.Canceled) || !errors.Is(idle.Err(), context.Canceled) {
			t.Errorf("%v and %v; want both ended", waiting.Err(), idle.Err())
		}
	})
}
