package testenv

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Ledger stands before a provider and writes down what becomes of every refresh token: whose it is, who presented it, when, and what was answered.
type Ledger struct {
	provider http.Handler
	userOf   UserOf
	nodes    func() []*World // that may be asking

	forget atomic.Bool
	life   atomic.Int64 // in seconds
	linger atomic.Int64 // at most

	mu     sync.Mutex
	owners map[string]string // by refresh token, the user
	shown  map[string][]Presentation
}

// Presentation is one refresh token presented once.
type Presentation struct {
	User string // whose login it belongs to
	Node int    // the number of the node that presented it; 0 for one that cannot be told, as it has ended since

	// Received is when the request had been read, Answered when the provider had done its part and the answer was about to be sent.
	Received, Answered time.Time

	Status int // of the answer, 0 until it is made
}

func newLedger(p http.Handler, userOf UserOf, nodes func() []*World) *Ledger {
	return &Ledger{provider: p, userOf: userOf, nodes: nodes, owners: make(map[string]string), shown: make(map[string][]Presentation)}
}

// connection is the key of a request's connection in its context.
type connection struct{}

// opener is who has opened a connection; it is found out when that matters.
type opener struct {
	mu   sync.Mutex
	node int
}

// connContext is the server's ConnContext.
func (l *Ledger) connContext(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connection{}, new(opener))
}

// nodeOf is the number of the node that sends a request.
func (l *Ledger) nodeOf(r *http.Request) int {
	o, ok := r.Context().Value(connection{}).(*opener)
	here, known := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok || !known {
		return 0
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for try := 0; o.node == 0 && try < 5; try++ { // a table that changes while it is read may lack a line
		inode := socketOf(r.RemoteAddr, here.String())
		for i, w := range l.nodes() {
			if inode != "" && w.holdsSocket(inode) {
				o.node = i + 1
			}
		}
	}
	return o.node
}

// ForgetRevocations makes the provider answer revocations as if it had heeded them, and go on.
func (l *Ledger) ForgetRevocations() { l.forget.Store(true) }

// SayLife makes the provider say that its access tokens live for so long, however long they do.
func (l *Ledger) SayLife(life time.Duration) { l.life.Store(int64(life / time.Second)) }

// Linger holds back each answer about tokens, when all is done, for a random time up to this one: for so long the provider knows more than who asks.
func (l *Ledger) Linger(atMost time.Duration) { l.linger.Store(int64(atMost)) }

func (l *Ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/revoke") && l.forget.Load() {
		return
	}
	if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/token") {
		l.provider.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	token, at := form.Get("refresh_token"), -1
	if form.Get("grant_type") == "refresh_token" {
		at = l.present(token, l.nodeOf(r))
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	l.provider.ServeHTTP(answer, r.WithContext(context.WithoutCancel(r.Context()))) // what has arrived is done, whoever has left
	l.answered(token, at, answer)
	if atMost := l.linger.Load(); atMost > 0 {
		time.Sleep(time.Duration(rand.Int64N(atMost)))
	}
	text := answer.Body.Bytes()
	if said := l.life.Load(); said > 0 {
		text = lifetime.ReplaceAll(text, fmt.Appendf(nil, `"expires_in":%d`, said))
	}
	maps.Copy(w.Header(), answer.Header())
	w.Header().Del("Content-Length")
	w.WriteHeader(answer.Code)
	_, _ = w.Write(text)
}

var lifetime = regexp.MustCompile(`"expires_in":\s*\d+`)

// present writes down a presentation, and returns its number.
func (l *Ledger) present(token string, node int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shown[token] = append(l.shown[token], Presentation{User: l.owners[token], Node: node, Received: time.Now()})
	return len(l.shown[token]) - 1
}

// answered writes down an answer, and whose the tokens in it are.
func (l *Ledger) answered(token string, at int, answer *httptest.ResponseRecorder) {
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	_ = json.Unmarshal(answer.Body.Bytes(), &tokens) // a refusal has none
	user, _ := l.userOf(context.Background(), tokens.Access)
	l.mu.Lock()
	defer l.mu.Unlock()
	if tokens.Refresh != "" {
		l.owners[tokens.Refresh] = user
	}
	if at >= 0 {
		p := &l.shown[token][at]
		p.Answered, p.Status = time.Now(), answer.Code
	}
}

// Owner is whose login at the provider a refresh token belongs to.
func (l *Ledger) Owner(token string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owners[token]
}

// Presentations are all of one refresh token, in their order.
func (l *Ledger) Presentations(token string) []Presentation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.shown[token])
}

// Presented is how many refresh tokens were presented, how often in all, and the presentations of those that were presented more than once, by token.
func (l *Ledger) Presented() (tokens, times int, again map[string][]Presentation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	again = make(map[string][]Presentation)
	for token, all := range l.shown {
		times += len(all)
		if len(all) > 1 {
			again[token] = slices.Clone(all)
		}
	}
	return len(l.shown), times, again
}

// By counts the presentations of each node, by its number.
func (l *Ledger) By() map[int]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	by := make(map[int]int)
	for _, all := range l.shown {
		for _, p := range all {
			by[p.Node]++
		}
	}
	return by
}
