package authserver

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	josejson "github.com/go-jose/go-jose/v4/json"
)

// Every node is told when the signing keys change, and reads them again. In between a token can come that another node has signed with a key which this one
// does not know yet. It is not refused before the keys were looked at once more.

// errUnknownKey says that a token names no key that this process knows.
var errUnknownKey = errors.New("not signed by a key of this gateway")

// lookEvery is how often the keys are looked at, at most, for tokens with an unknown key. All tokens that come meanwhile wait for the same look, so
// that made-up ones cost the vault four reads in a second.
const lookEvery = 250 * time.Millisecond

// verify is keyring.verify, which looks at the keys in the vault for a token that may be signed with a new one. Errors are ErrInvalidToken, or what the vault says.
func (s *Server) verify(ctx context.Context, token string) (*Claims, error) {
	c, err := s.keys.verify(token)
	if errors.Is(err, errUnknownKey) && namesKey(token, s.issuer) {
		if err := s.keys.looks.look(ctx); err != nil {
			return nil, fmt.Errorf("signing keys: %w", err)
		}
		c, err = s.keys.verify(token)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidToken, err)
	}
	return c, nil
}

// namesKey reports whether a token looks like one of the gateway's that was signed with a key of which nothing is known. Nothing in it is believed.
func namesKey(token, issuer string) bool {
	head, rest, _ := strings.Cut(token, ".")
	payload, _, ok := strings.Cut(rest, ".")
	if !ok || len(token) > maxAccessToken {
		return false
	}
	var header struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
		Type      string `json:"typ"`
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	return unpackSegment(head, &header) && header.Type == accessTokenType && slices.Contains(SigningAlgorithms(), header.Algorithm) &&
		len(header.KeyID) == 43 && isBase64URL(header.KeyID) && unpackSegment(payload, &claims) && claims.Issuer == issuer
}

func unpackSegment(segment string, into any) bool {
	text, err := base64.RawURLEncoding.Strict().DecodeString(segment)
	return err == nil && josejson.Unmarshal(text, into) == nil
}

// looks are strict readings that requests ask for.
type looks struct {
	read   func(context.Context) error
	ending context.Context

	mu   sync.Mutex
	next *look // has not begun yet, so that it sees what happened before it was asked for

	looking sync.Mutex // one at a time
	began   time.Time  // the last one; under looking
}

type look struct {
	done chan struct{}
	err  error
}

// look returns when a reading that began after the call is over.
func (l *looks) look(ctx context.Context) error {
	l.mu.Lock()
	mine := l.next
	if mine == nil {
		mine = &look{done: make(chan struct{})}
		l.next = mine
		go l.run(mine)
	}
	l.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *looks) run(mine *look) {
	defer close(mine.done)
	l.looking.Lock()
	defer l.looking.Unlock()
	if wait := time.Until(l.began.Add(lookEvery)); wait > 0 {
		select {
		case <-time.After(wait):
		case <-l.ending.Done():
		}
	}
	l.mu.Lock()
	l.next, l.began = nil, time.Now()
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(l.ending, judgeTime)
	defer cancel()
	mine.err = l.read(ctx)
}
