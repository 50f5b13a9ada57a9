//go:build slow

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/demo/provider"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// resident is a user of a besieged gateway with a chatbot, and knows what was acknowledged.
type resident struct {
	s      *siege
	random *rand.Rand
	user   provider.User
	bot    *testenv.PlainBot

	code  *gotCode // that is to be redeemed
	held  *holding // nil without a grant
	ended []ended
}

// gotCode is an authorization code that was given to the chatbot.
type gotCode struct {
	code, verifier string
	at             time.Time
	sent           bool // and the answer was lost
}

// holding is a grant as the gateway has acknowledged it.
type holding struct {
	grant, jti, access, refresh string

	asked wish  // what may have been done
	cuts  []cut // what kills have left of its account
}

// wish is what was asked for and not answered. It may have been done, and is asked for again.
type wish string

const (
	askedRefresh wish = "refresh"
	askedEnd     wish = "end"
)

// cut is a refresh at the provider that a kill has cut off, as the vault knows of it.
type cut struct {
	at       time.Time // when the process was gone
	token    string    // the refresh token
	replayed bool      // it was its last try
}

// ended is a grant that was revoked, and that was acknowledged.
type ended struct {
	grant, access, refresh, how string
}

func (h *holding) String() string {
	return fmt.Sprintf("grant %s, asked for %q, cut off %d times", h.grant, h.asked, len(h.cuts))
}

// act does whatever comes to the resident's mind.
func (r *resident) act() {
	if r.held == nil {
		r.logIn()
		return
	}
	if r.held.asked != "" {
		r.askAgain()
		return
	}
	switch n := r.random.IntN(100); {
	case n < 50:
		r.call()
	case n < 85:
		r.refresh()
	case n < 92:
		r.end()
	case n < 97:
		r.endByOperator()
	default:
		r.endByOrder()
	}
}

// settle finds out what became of what was asked for, and sees that everything acknowledged is there.
func (r *resident) settle() {
	if r.held != nil && r.held.asked != "" {
		r.askAgain()
	}
	if r.held != nil && r.held.asked == "" && (len(r.held.cuts) == 0 || !r.waits()) {
		r.call()
	}
	for i := range min(2, len(r.ended)) {
		r.refused(r.ended[len(r.ended)-1-i])
	}
	if len(r.ended) > 2 {
		r.refused(r.ended[r.random.IntN(len(r.ended))])
	}
}

// settled reports whether nothing is open.
func (r *resident) settled() bool { return r.held.asked == "" && len(r.held.cuts) == 0 }

// waits says whether the lease that a dead process has left may still run.
func (r *resident) waits() bool { return r.sinceCut() < deadLease+time.Second }

// sinceCut is for how long the vault has been there since the account was cut off.
func (r *resident) sinceCut() time.Duration {
	since := r.held.cuts[len(r.held.cuts)-1].at
	if since.Before(r.s.began) {
		since = r.s.began
	}
	return time.Since(since)
}

// deadLease is how long a process that was killed keeps an account from others, at most.
const deadLease = 10 * time.Second

func (r *resident) askAgain() {
	switch r.held.asked {
	case askedRefresh:
		r.refresh()
	case askedEnd:
		r.end()
	}
}

// mayFail reports whether a request may have come to nothing, and fails the test where it may not. What was answered with a status below 500 is an answer.
func (r *resident) mayFail(step string, status int, err error, text any) bool {
	if err == nil && status < http.StatusInternalServerError {
		return false
	}
	if r.s.falling.Load() {
		r.s.count(step + " cut off")
	} else {
		r.s.fail("%s: %s: %d %v %v", r.user.Name, step, status, err, text)
	}
	return true
}

// logIn logs in, every fifth time with a client that is registered for it.
func (r *resident) logIn() {
	if r.code == nil {
		if r.random.IntN(5) == 0 && !r.register() {
			return
		}
		back, err := testenv.NewBrowser(r.user).Through(r.s.way).TryLogin(r.bot.AuthorizeURL(), r.bot.Redirect)
		if r.mayFail("login", 0, err, "") && err != nil {
			return
		}
		code := back.Query().Get("code")
		if code == "" {
			r.s.fail("%s: a login without a code: %s", r.user.Name, back)
			return
		}
		r.code = &gotCode{code: code, verifier: r.bot.Verifier, at: time.Now()}
	}
	r.redeem()
}

func (r *resident) register() bool {
	body := `{"redirect_uris":["` + r.bot.Redirect + `"],"client_name":"` + r.user.Name + `","token_endpoint_auth_method":"client_secret_post",` +
		`"grant_types":["authorization_code","refresh_token"],"response_types":["code"]}`
	status, m, err := r.bot.Post("register", "application/json", body)
	if r.mayFail("registration", status, err, m) {
		return false
	}
	id, _ := m["client_id"].(string)
	secret, _ := m["client_secret"].(string)
	if status != http.StatusCreated || id == "" || secret == "" {
		r.s.fail("%s: registration: %d %v", r.user.Name, status, m)
		return false
	}
	r.bot.ID, r.bot.Secret = id, secret
	r.s.count("registration")
	return true
}

// codeLife is how long a code is good, less what a restart may take.
const codeLife = 50 * time.Second

// redeem redeems the code. One that was given and never redeemed outlives a kill; of one whose first answer was lost nobody knows more than that it is gone.
func (r *resident) redeem() {
	c := r.code
	status, m, err := r.post("token", url.Values{"grant_type": {"authorization_code"}, "code": {c.code}, "redirect_uri": {r.bot.Redirect}, "code_verifier": {c.verifier}})
	switch {
	case r.mayFail("redemption", status, err, m):
		c.sent = true
	case status == http.StatusOK:
		r.code = nil
		r.take("login", m)
	case status == http.StatusBadRequest && c.sent:
		r.code = nil
		r.s.count("redemption cut off after it was made")
	case status == http.StatusBadRequest && time.Since(c.at) > codeLife:
		r.code = nil
	default:
		r.s.fail("%s: a code that was given is not redeemed: %d %v", r.user.Name, status, m)
		r.code = nil
	}
}

// post sends a form with the client's authentication.
func (r *resident) post(endpoint string, form url.Values) (int, map[string]any, error) {
	form.Set("client_id", r.bot.ID)
	form.Set("client_secret", r.bot.Secret)
	return r.bot.Post(endpoint, "application/x-www-form-urlencoded", form.Encode())
}

// take keeps the tokens of an answer.
func (r *resident) take(step string, m map[string]any) {
	access, _ := m["access_token"].(string)
	refresh, _ := m["refresh_token"].(string)
	grant, jti, err := claimsOf(access)
	if err != nil || refresh == "" || r.held != nil && r.held.grant != grant {
		r.s.fail("%s: %s: %v, tokens of the grant %q: %v", r.user.Name, step, err, grant, m)
		return
	}
	if r.held == nil {
		r.held = &holding{grant: grant}
	}
	r.held.asked, r.held.jti, r.held.access, r.held.refresh = "", jti, access, refresh
	r.s.count(step)
}

// claimsOf reads an access token's grant and id, without a look at its signature.
func claimsOf(access string) (grant, jti string, err error) {
	parts := strings.Split(access, ".")
	if len(parts) != 3 {
		return "", "", errors.New("not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", "", err
	}
	var claims struct {
		Grant string `json:"sid"`
		JTI   string `json:"jti"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "", "", err
	}
	if claims.Grant == "" || claims.JTI == "" {
		return "", "", errors.New("a JWT without sid or jti")
	}
	return claims.Grant, claims.JTI, nil
}

// refresh gets the next tokens. What the answer to was lost is asked for again with the same token.
func (r *resident) refresh() {
	status, m, err := r.post("token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {r.held.refresh}})
	switch {
	case r.mayFail("refresh", status, err, m):
		r.held.asked = askedRefresh
	case status == http.StatusOK:
		r.take("refresh", m)
	default:
		r.loggedOut("refresh", status, m)
	}
}

// call calls a tool, which must tell that the resident's own token arrived.
func (r *resident) call() {
	a, err := r.send(r.held.access)
	switch {
	case len(r.held.cuts) > 0 && err == nil && a.Status == http.StatusServiceUnavailable:
		r.s.count("call waited in vain for the lease of a dead process")
	case r.mayFail("call", a.Status, err, a.Body):
	case a.Status == http.StatusOK && strings.Contains(a.Body, "You are "+r.user.Name):
		r.s.count("call")
		if len(r.held.cuts) > 0 && r.sinceCut() > deadLease+2*besiegedLife { // with a token that is younger than that
			r.held.cuts = nil
		}
	case a.Status == http.StatusUnauthorized:
		r.loggedOut("call", a.Status, a.Body)
	default:
		r.s.fail("%s: call: %d %s", r.user.Name, a.Status, a.Body)
	}
}

func (r *resident) send(access string) (testenv.Answer, error) {
	return r.bot.Send(context.Background(), http.MethodPost, testenv.ToolCall("whoami"), func(req *http.Request) { req.Header.Set("Authorization", "Bearer "+access) })
}

// late is how much later than the kill the provider may have read what the process had sent before.
const late = 2 * time.Second

// loss says why no design could have saved the resident's login at the provider. Either the process had presented the refresh token, the provider had exchanged it, and
// what it gave was in nobody's hands when the process was gone; or that was cut off a second time, in the one try that may follow.
func (r *resident) loss() (why string, lost bool) {
	for _, c := range r.held.cuts {
		for _, p := range r.s.w.Ledger.Presentations(c.token) {
			if p.Status == http.StatusOK && p.Received.Before(c.at.Add(late)) {
				return "killed between the exchange at the provider and the vault", true
			}
		}
		if c.replayed {
			return "killed in the last try of a refresh that was cut off before", true
		}
	}
	return "", false
}

// loggedOut is a resident who finds that the gateway knows them no more.
func (r *resident) loggedOut(step string, status int, text any) {
	why, lost := r.loss()
	if !lost {
		r.s.fail("%s is logged out, %s: %s: %d %v", r.user.Name, r.held, step, status, text)
	} else {
		r.s.count("lost: " + why)
	}
	r.held = nil
}

// end revokes the grant as chatbots do (RFC 7009).
func (r *resident) end() {
	status, m, err := r.post("revoke", url.Values{"token": {r.held.refresh}})
	r.endAnswered("revocation by the client", http.StatusOK, status, err, m)
}

func (r *resident) endByOperator() {
	status, text, err := r.s.admin(http.MethodDelete, "grants/"+r.held.grant, "")
	r.endAnswered("revocation by the operator", http.StatusOK, status, err, text)
}

// endByOrder has the operator revoke all grants of the resident's client. Others have theirs of clients that were registered for them, or of the first one, which is left alone.
func (r *resident) endByOrder() {
	if r.bot.ID == r.s.firstClient {
		r.call()
		return
	}
	status, text, err := r.s.admin(http.MethodPost, "revocations", `{"filter":{"client_id":"`+r.bot.ID+`"},"reason":"a siege"}`)
	r.endAnswered("revocation order", http.StatusAccepted, status, err, text)
}

func (r *resident) endAnswered(how string, want, status int, err error, text any) {
	switch {
	case r.mayFail(how, status, err, text):
		r.held.asked = askedEnd
	case status == want:
		r.ended = append(r.ended, ended{r.held.grant, r.held.access, r.held.refresh, how})
		r.held = nil
		r.s.count(how)
	default:
		r.s.fail("%s: %s: %d %v", r.user.Name, how, status, text)
	}
}

// refused fails the test when a grant that has ended is of any use.
func (r *resident) refused(e ended) {
	a, err := r.send(e.access)
	if !r.mayFail("call with an ended grant", a.Status, err, a.Body) && a.Status != http.StatusUnauthorized {
		r.s.fail("%s: %s of the grant %s was acknowledged, and a call is answered %d %s", r.user.Name, e.how, e.grant, a.Status, a.Body)
	}
	status, m, err := r.bot.Twin("").TokenRequest("refresh_token", e.refresh)
	if !r.mayFail("refresh of an ended grant", status, err, m) && (status != http.StatusBadRequest || m["error"] != "invalid_grant") {
		r.s.fail("%s: %s of the grant %s was acknowledged, and a refresh is answered %d %v", r.user.Name, e.how, e.grant, status, m)
	}
	r.s.count("ended grant refused")
}

// left judges what a process that was gone at some time has left in the vault of what it had acknowledged.
func (r *resident) left(v *tokenstore.Vault, at time.Time, gone bool) {
	ctx := context.Background()
	for i := max(0, len(r.ended)-20); i < len(r.ended); i++ {
		r.leftEnded(ctx, v, r.ended[i])
	}
	h := r.held
	if h == nil {
		return
	}
	g, err := v.Grant(ctx, h.grant)
	if err != nil {
		r.s.fail("%s: %s is acknowledged, and not in the vault: %v", r.user.Name, h, err)
		r.held = nil
		return
	}
	_, lost := r.loss()
	if g.State != tokenstore.StateActive && h.asked != askedEnd && !lost {
		r.s.fail("%s: %s is acknowledged, and is %s in the vault: %s", r.user.Name, h, g.State, g.Reason)
	}
	if g.Family.JTI != h.jti && h.asked != askedRefresh {
		r.s.fail("%s: %s: the vault has other tokens than those that were acknowledged: generation %d of %s", r.user.Name, h, g.Family.Generation, g.Family.Rotated)
	}
	r.leftAccount(ctx, v, g.AccountID, at, gone)
}

func (r *resident) leftEnded(ctx context.Context, v *tokenstore.Vault, e ended) {
	g, err := v.Grant(ctx, e.grant)
	switch {
	case errors.Is(err, tokenstore.ErrNotFound) || err == nil && g.State == tokenstore.StateRevoked:
		return
	case err != nil:
		r.s.fail("%s: the ended grant %s: %v", r.user.Name, e.grant, err)
		return
	}
	orders, err := v.RevocationOrders(ctx, true)
	for _, o := range orders {
		if o.MeansGrant(g) {
			return
		}
	}
	r.s.fail("%s: %s of the grant %s was acknowledged, and it is %s in the vault, %v", r.user.Name, e.how, e.grant, g.State, err)
}

// leftAccount notes what was cut off, and fails the test when the vault takes a refresh token for good that the provider has exchanged.
func (r *resident) leftAccount(ctx context.Context, v *tokenstore.Vault, id string, at time.Time, gone bool) {
	h := r.held
	a, err := v.Account(ctx, id)
	if err != nil {
		r.s.fail("%s: the account of %s: %v", r.user.Name, h, err)
		return
	}
	_, lost := r.loss()
	switch {
	case a.State == tokenstore.StateRefreshing && !gone:
	case a.State == tokenstore.StateRefreshing:
		h.cuts = append(h.cuts, cut{at, a.RefreshToken, a.Lease.Replayed})
		r.s.cut[a.RefreshToken] = true
		r.s.count("account left in a refresh")
	case a.State == tokenstore.StateActive:
		h.cuts = nil
		for _, p := range r.s.w.Ledger.Presentations(a.RefreshToken) {
			if p.Status == http.StatusOK {
				r.s.fail("%s: %s: the vault takes a refresh token for good that the provider has exchanged at %s", r.user.Name, h, p.Answered)
			}
		}
	case !lost && h.asked != askedEnd:
		r.s.fail("%s: the account of %s is %s: %s", r.user.Name, h, a.State, a.Reason)
	}
}
