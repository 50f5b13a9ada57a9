//go:build slow && !race

package e2e

import (
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// doorkeeper is an MCP server that answers every call with whose token has arrived, where the provider holds it valid at that moment, and 401 otherwise.
func doorkeeper(userOf testenv.UserOf) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		user, live := userOf(r.Context(), token)
		if !live || scheme != "Bearer" {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[{"type":"text","text":"You are `+user+`."}]}}`)
	})
}

// inhabitant is a user with a chatbot that never rests.
type inhabitant struct {
	s            *soak
	user         provider.User
	bot          *testenv.PlainBot
	http         *http.Client
	access, next string // the tokens
	gone         bool   // logged out, for which the test fails
}

// logIn logs all users in, through the balancer.
func (s *soak) logIn(users []provider.User) (all []*inhabitant) {
	transport := &http.Transport{MaxIdleConnsPerHost: len(users)}
	s.t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	bot := s.c.NewPlainBot(s.t, nil)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, u := range users {
		i := &inhabitant{s: s, user: u, bot: bot.Twin(""), http: client}
		i.bot.Client = client
		all = append(all, i)
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			i.logIn()
		})
	}
	wg.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	return all
}

func (i *inhabitant) logIn() {
	if err := i.bot.TryLogin(testenv.NewBrowser(i.user)); err != nil {
		i.s.t.Errorf("%s cannot log in: %v", i.user.Name, err)
		i.gone = true
		return
	}
	i.access, i.next = i.bot.Access(), i.bot.Token()
}

// live calls and refreshes until the end.
func (i *inhabitant) live(ctx context.Context) {
	rest(ctx, time.Duration(rand.Int64N(int64(3*time.Second))))
	for n := rand.IntN(10); ctx.Err() == nil && !i.gone; n++ {
		if n%10 == 0 {
			i.refresh(ctx)
		} else {
			i.call(ctx)
		}
		rest(ctx, 1500*time.Millisecond+time.Duration(rand.Int64N(int64(3*time.Second))))
	}
}

// call calls a tool, which must tell that the user's own token arrived, and that the provider holds it valid.
func (i *inhabitant) call(ctx context.Context) {
	if i.gone {
		return
	}
	req, err := http.NewRequest(http.MethodPost, i.s.c.Balancer.ProxyURL("demo"), strings.NewReader(testenv.ToolCall("whoami")))
	if err != nil {
		i.s.t.Error(err)
		return
	}
	for name, value := range map[string]string{
		"Authorization": "Bearer " + i.access, "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"MCP-Protocol-Version": testenv.Stateless, "Mcp-Method": "tools/call", "Mcp-Name": "whoami",
	} {
		req.Header.Set(name, value)
	}
	r := i.send(ctx, "call", req)
	if r.status == http.StatusOK && !strings.Contains(r.text, "You are "+i.user.Name+".") {
		i.s.t.Errorf("somebody else's answer: %s", r)
	}
	if r.status == http.StatusUnauthorized {
		i.loggedOut()
	}
}

// refresh gets the next tokens. What the answer to was lost is asked for again, with the same token.
func (i *inhabitant) refresh(ctx context.Context) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {i.next}, "client_id": {i.bot.ID}, "client_secret": {i.bot.Secret}}
	req, err := http.NewRequest(http.MethodPost, i.s.c.URL+"/api/v1/oauth-proxy/demo/token", strings.NewReader(form.Encode()))
	if err != nil {
		i.s.t.Error(err)
		return
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r := i.send(ctx, "refresh", req)
	switch {
	case r.status == http.StatusOK:
		var tokens struct {
			Access string `json:"access_token"`
			Next   string `json:"refresh_token"`
		}
		if err := json.Unmarshal([]byte(r.text), &tokens); err != nil || tokens.Access == "" || tokens.Next == "" {
			i.s.t.Errorf("no tokens: %v", err)
			return
		}
		i.access, i.next = tokens.Access, tokens.Next
	case r.status == http.StatusBadRequest || r.status == http.StatusUnauthorized:
		i.loggedOut()
	}
}

// loggedOut is a user who finds that the gateway does not know them any more. Who could not be saved logs in again.
func (i *inhabitant) loggedOut() {
	if len(i.s.losses(i.user.Name)) == 0 {
		i.gone = true
		return
	}
	i.s.mu.Lock()
	i.s.again[i.user.Name]++
	i.s.mu.Unlock()
	i.logIn()
}

// send sends a request through the balancer, to its end even when the test ends, and keeps what became of it.
func (i *inhabitant) send(ctx context.Context, step string, req *http.Request) request {
	r := request{user: i.user.Name, step: step, began: time.Now()}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	resp, err := i.http.Do(req.WithContext(ctx))
	if err == nil {
		var text []byte
		text, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		r.node, r.status, r.text = i.s.c.Number(resp.Header.Get(testenv.NodeHeader)), resp.StatusCode, string(text)
	}
	if err != nil {
		r.status, r.text = 0, err.Error()
	}
	r.ended = time.Now()
	i.s.record(r)
	return r
}
