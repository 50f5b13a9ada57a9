package mcpfilter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// farewellBook writes down which sessions were ended.
type farewellBook struct {
	mu    sync.Mutex
	ended []string
}

func (b *farewellBook) end(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = append(b.ended, s.id+" "+s.token)
}

// is waits for what is under way, and compares.
func (b *farewellBook) is(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.Sort(b.ended); !slices.Equal(b.ended, want) {
		t.Errorf("ended: %q, want %q", b.ended, want)
	}
}

func keyNumber(n int) sessionKey { return sessionKey{user: fmt.Sprint(n)} }

func openNumber(t *testing.T, p *sessions, n int, id string) *session {
	t.Helper()
	s, err := p.open(t.Context(), keyNumber(n), func() (*session, error) { return &session{id: id}, nil })
	if err != nil || s == nil {
		t.Fatalf("open: %v, %v", s, err)
	}
	return s
}

func inBubble(t *testing.T, test func(t *testing.T, p *sessions, b *farewellBook)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := new(farewellBook)
		test(t, newSessions(b.end), b)
	})
}

func TestSessionIsKeptUntilNobodyUsedItForSomeTime(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *sessions, b *farewellBook) {
		s := openNumber(t, p, 1, "a")
		if p.take(keyNumber(2)) != nil {
			t.Error("somebody else has it")
		}
		time.Sleep(2 * sessionIdle) // a long call
		p.giveBack(s, "token-1")
		for range 3 {
			time.Sleep(sessionIdle - time.Second)
			if p.take(keyNumber(1)) != s {
				t.Fatal("it is gone")
			}
			p.giveBack(s, "token-2")
		}
		b.is(t)
		time.Sleep(sessionIdle)
		b.is(t, "a token-2")
		if p.take(keyNumber(1)) != nil {
			t.Error("it is still there")
		}
	})
}

func TestSessionsAreBoundedAndTheOldestUnusedOneEnds(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *sessions, b *farewellBook) {
		p.max = 3
		busy := openNumber(t, p, 1, "busy")
		for n, id := range []string{"older", "newer"} {
			p.giveBack(openNumber(t, p, n+2, id), "t")
			time.Sleep(time.Second)
		}
		p.giveBack(openNumber(t, p, 4, "fourth"), "t")
		b.is(t, "older t")
		if len(p.kept) != 3 {
			t.Errorf("%d are kept", len(p.kept))
		}
		// Where all are in use one of them gives way, but not before it was given back.
		p.take(keyNumber(3))
		p.take(keyNumber(4))
		openNumber(t, p, 5, "fifth")
		b.is(t, "older t")
		p.giveBack(p.kept[keyNumber(5)], "t")
		if p.kept[keyNumber(1)] == nil {
			p.giveBack(busy, "t")
			b.is(t, "busy t", "older t")
		}
		if len(p.kept) != 3 {
			t.Errorf("%d are kept", len(p.kept))
		}
	})
}

func TestUserDrivesOutOnlyTheirOwnSessions(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *sessions, b *farewellBook) {
		p.max, p.maxUser = 4, 2
		p.giveBack(openNumber(t, p, 1, "ada"), "t")
		for i := range 5 {
			time.Sleep(time.Second)
			s, err := p.open(t.Context(), sessionKey{user: "greedy", path: fmt.Sprint(i)}, func() (*session, error) { return &session{id: fmt.Sprint("greedy", i)}, nil })
			if err != nil {
				t.Fatal(err)
			}
			p.giveBack(s, "t")
		}
		b.is(t, "greedy0 t", "greedy1 t", "greedy2 t")
		if p.take(keyNumber(1)) == nil {
			t.Error("somebody else's is gone")
		}
	})
}

func TestClosedSessionsEndWithTheirLastRequest(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *sessions, b *farewellBook) {
		p.giveBack(openNumber(t, p, 1, "unused"), "t")
		used := openNumber(t, p, 2, "used")
		p.take(keyNumber(2))
		<-p.close()
		b.is(t, "unused t")
		p.giveBack(used, "t")
		b.is(t, "unused t")
		p.giveBack(used, "t2")
		b.is(t, "unused t", "used t2")

		// What comes later is not kept.
		late := openNumber(t, p, 3, "late")
		if p.take(keyNumber(3)) != nil {
			t.Error("it is kept")
		}
		p.giveBack(late, "t")
		b.is(t, "late t", "unused t", "used t2")
		<-p.close()
		time.Sleep(2 * sessionIdle)
		b.is(t, "late t", "unused t", "used t2")
	})
}

func TestForgottenSessionIsNotEnded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *sessions, b *farewellBook) {
		s := openNumber(t, p, 1, "a")
		p.take(keyNumber(1))
		p.drop(s)
		next := openNumber(t, p, 1, "b")
		p.giveBack(s, "t")
		if p.kept[keyNumber(1)] != next {
			t.Error("the new one is gone with the old one")
		}
		b.is(t)
		p.giveBack(next, "t")
		time.Sleep(sessionIdle)
		b.is(t, "b t")
	})
}

func TestSessionIsOpenedByOneWhileOthersWait(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *sessions, b *farewellBook) {
		failed := errors.New("the server is down")
		tries := 0
		open := func(ctx context.Context) (*session, error) {
			return p.open(ctx, keyNumber(1), func() (*session, error) {
				tries++
				time.Sleep(time.Second)
				switch tries {
				case 1:
					return nil, failed
				case 2:
					return nil, nil // the server opens none
				}
				return &session{id: "a"}, nil
			})
		}
		var mu sync.Mutex
		results := make(map[string]int)
		note := func(s *session, err error) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				results[err.Error()]++
			case s == nil:
				results["none"]++
			default:
				results[s.id]++
			}
		}
		impatient, leave := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer leave()
		go func() { note(open(t.Context())) }()
		synctest.Wait()
		go func() { note(open(impatient)) }()
		for range 10 {
			go func() { note(open(t.Context())) }()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := map[string]int{failed.Error(): 1, context.DeadlineExceeded.Error(): 1, "none": 1, "a": 9}; fmt.Sprint(results) != fmt.Sprint(want) || tries != 3 {
			t.Errorf("%v after %d tries", results, tries)
		}
		if s := p.kept[keyNumber(1)]; s.users != 9 || len(p.opening) != 0 {
			t.Errorf("%d users, %d opening", s.users, len(p.opening))
		}
		b.is(t)
	})
}
