package authserver

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	josejson "github.com/go-jose/go-jose/v4/json"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Claims are the claims of a gateway access token (RFC 9068 §2.2).
type Claims struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"` // one resource, as a string
	Subject  string `json:"sub"` // pseudonymous, the same for a user at all proxies of a provider
	ClientID string `json:"client_id"`
	Scope    string `json:"scope,omitempty"`
	JTI      string `json:"jti"`
	GrantID  string `json:"sid"` // names the grant, which is looked up on every request
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
}

const (
	// maxAccessToken bounds what is looked at at all, in bytes.
	maxAccessToken = 4 << 10

	// usualAccessToken is how long a token is at most that costs no memory to look up, in bytes.
	usualAccessToken = 1 << 10

	// clockLeeway is how far the clocks of two gateway nodes may differ.
	clockLeeway = 30 * time.Second

	// judgeTime bounds how long a request waits for the vault to say whether its grant is alive.
	judgeTime = 10 * time.Second
)

// ErrInvalidToken says that an access token, or an API key, is not one to act on: not ours, expired, for another
// resource, or of a grant that was ended. The wrapped text says which, for the log.
var ErrInvalidToken = errors.New("invalid access token")

// Authenticate judges the token of an MCP request to a proxy (RFC 9068 §4): signature, type, issuer,
// audience, time, and that the grant is alive now. It may be an access token for the proxy's resource, a session token of the
// proxy's provider, or an API key. Errors are ErrInvalidToken, or what the vault says.
func (s *Server) Authenticate(ctx context.Context, token, proxyID string) (*tokenstore.Grant, *Claims, error) {
	invalid := func(why string) error { return fmt.Errorf("%w: %s", ErrInvalidToken, why) }
	p := s.proxies[proxyID]
	if p == nil {
		return nil, nil, invalid("no such proxy")
	}
	bounded := judge(ctx)
	defer bounded.stop()
	if strings.HasPrefix(token, tokenstore.APIKeyPrefix) {
		return s.authenticateAPIKey(bounded, token, p)
	}
	g, c, err := s.grantOfAccessToken(bounded, token, s.vault.RecallGrant)
	if err != nil {
		return nil, nil, err
	}
	if err := s.goodFor(g, c, p); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrInvalidToken, err)
	}
	s.uses.note(g, s.vault.Now())
	return g, c, nil
}

// goodFor says why a token is no good for a proxy as it is configured now.
func (s *Server) goodFor(g *tokenstore.Grant, c *Claims, p *Proxy) error {
	session := g.ClientID == sessionClient
	switch {
	case session && !s.sessions:
		return errors.New("session tokens are switched off")
	case g.Proxy != "" && (c.Audience != p.Resource || g.Proxy != p.ID):
		return errors.New("for another resource")
	case g.Proxy == "" && (c.Audience != s.issuer || !p.takesSessions(g.User.Provider)):
		return errors.New("a session of another provider")
	case !p.hasProvidersOf(g):
		return errors.New("the proxy has other providers now than its grant was made with")
	case session && !p.Allow.Permits(g.User):
		return errors.New("the proxy's allow list does not name the user")
	}
	return nil
}

// CheckGrant judges the grant of a request to a proxy that was authenticated before and goes on, perhaps longer than its token. For a request with
// an API key it judges the key. The errors are those of Authenticate.
func (s *Server) CheckGrant(ctx context.Context, grantID, proxyID string) error {
	invalid := func(why string) error { return fmt.Errorf("%w: %s", ErrInvalidToken, why) }
	p := s.proxies[proxyID]
	if p == nil {
		return invalid("no such proxy")
	}
	bounded := judge(ctx)
	defer bounded.stop()
	if isAPIKeyID(grantID) {
		return s.checkAPIKey(bounded, grantID, p)
	}
	g, err := s.activeGrant(bounded, grantID, s.vault.RecallGrant)
	if err != nil {
		return err
	}
	if err := s.goodFor(g, &Claims{Audience: g.Resource}, p); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidToken, err)
	}
	switch {
	case g.AccountID == "": // a client's own grant ends with its token, which the request may outlive
	case !s.vault.Now().Before(g.Ends):
		return invalid("its grant has expired")
	case !p.Allow.Permits(g.User):
		return invalid("the proxy's allow list does not name the user")
	}
	return nil
}

// Ended reports whether a grant, or an API key, was ended or is gone. A vault that does not answer says neither.
func (s *Server) Ended(ctx context.Context, grantID string) bool {
	bounded := judge(ctx)
	defer bounded.stop()
	if isAPIKeyID(grantID) {
		k, err := s.vault.RecallAPIKey(bounded, grantID)
		return errors.Is(err, tokenstore.ErrNotFound) || err == nil && !k.Revoked.IsZero()
	}
	g, err := s.vault.RecallGrant(bounded, grantID)
	return errors.Is(err, tokenstore.ErrNotFound) || err == nil && s.over(g)
}

// findGrant is Vault.Grant, or Vault.RecallGrant where nothing is decided that outlives the request.
type findGrant func(ctx context.Context, id string) (*tokenstore.Grant, error)

// grantOfAccessToken verifies a token of ours, whatever it is for, and finds its living grant. Errors are ErrInvalidToken, or
// what the vault says.
func (s *Server) grantOfAccessToken(ctx context.Context, token string, find findGrant) (*tokenstore.Grant, *Claims, error) {
	invalid := func(why string) error { return fmt.Errorf("%w: %s", ErrInvalidToken, why) }
	c, err := s.verify(ctx, token)
	if err != nil {
		return nil, nil, err
	}
	now := s.vault.Now()
	switch {
	case c.Issuer != s.issuer:
		return nil, nil, invalid("issued by another gateway")
	case !now.Before(time.Unix(c.Expires, 0)):
		return nil, nil, invalid("expired")
	case time.Unix(c.IssuedAt, 0).After(now.Add(clockLeeway)):
		return nil, nil, invalid("issued in the future")
	}
	g, err := s.activeGrant(ctx, c.GrantID, find)
	switch {
	case err != nil:
		return nil, nil, err
	case g.ClientID != c.ClientID || g.UserID != c.Subject:
		return nil, nil, invalid("its grant is another")
	case !now.Before(g.Ends):
		return nil, nil, invalid("its grant has expired")
	}
	return g, c, nil
}

// activeGrant finds a grant that nobody ended. Errors are ErrInvalidToken, or what the vault says.
func (s *Server) activeGrant(ctx context.Context, id string, find findGrant) (*tokenstore.Grant, error) {
	invalid := func(why string) error { return fmt.Errorf("%w: its grant %s", ErrInvalidToken, why) }
	g, err := find(ctx, id)
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return nil, invalid("is gone")
	case err != nil:
		return nil, fmt.Errorf("grant: %w", err)
	case s.over(g):
		return nil, invalid("was ended")
	}
	return g, nil
}

// sign makes an access token of the claims with the key that signs now.
func (k *keyring) sign(claims any) (string, error) {
	key := k.signing()
	return key.signClaims(key.access, claims)
}

// signClaims makes a compact JWS of one of the key's headers and the claims.
func (k *signingKey) signClaims(header string, claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	return k.sign(header, plainPayload(payload))
}

// plainPayload writes JSON so that its base64url text is base64 as well: scripts decode it with the wrong alphabet.
// Only bytes beyond ASCII and four others make the characters in which the two differ, and in JSON those stand
// inside strings, where they may be escaped.
func plainPayload(payload []byte) []byte {
	plain := make([]byte, 0, len(payload))
	for _, c := range string(payload) {
		switch {
		case c < 0x7f && c != '?' && c != '>' && c != '~':
			plain = utf8.AppendRune(plain, c)
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			plain = fmt.Appendf(plain, `\u%04x\u%04x`, high, low)
		default:
			plain = fmt.Appendf(plain, `\u%04x`, c)
		}
	}
	return plain
}

// verify checks that the token is one that this gateway signed, in the one spelling in which it did, and
// decodes its claims. It judges no claim but that all required ones are there.
//
// The header of our tokens is a constant per key. Comparing it as text, before anything is parsed,
// settles type, algorithm and key at once, and leaves nothing for jwk, jku, x5u, crit or a forged kid to do.
func (k *keyring) verify(token string) (*Claims, error) {
	if len(token) > maxAccessToken {
		return nil, errors.New("too long")
	}
	var text [usualAccessToken]byte // on the stack
	set, sum := k.current.Load(), sha256.Sum256(append(text[:0], token...))
	c := set.verified.get(&sum)
	k.looked(c != nil)
	if c != nil {
		return c, nil
	}
	c, err := set.verify(token)
	if err != nil {
		return nil, err
	}
	return set.verified.put(&sum, c, k.vault.Now()), nil // which the vault's memory may hold on to
}

func (set *keySet) verify(token string) (*Claims, error) {
	head, rest, _ := strings.Cut(token, ".")
	key, ok := set.byHeader[head]
	if !ok {
		return nil, errUnknownKey
	}
	text, last, _ := strings.Cut(rest, ".")
	payload, ok := canonicalSegment(text)
	signature, also := canonicalSegment(last)
	if !ok || !also {
		return nil, errors.New("not in canonical form")
	}
	if !key.verifies([]byte(token[:len(token)-len(".")-len(last)]), signature) {
		return nil, errors.New("wrong signature")
	}
	var c Claims
	if err := josejson.Unmarshal(payload, &c); err != nil {
		return nil, errors.New("malformed claims")
	}
	if c.Issuer == "" || c.Audience == "" || c.Subject == "" || c.ClientID == "" || c.JTI == "" || !plausibleID(c.GrantID) || c.IssuedAt <= 0 || c.Expires <= 0 {
		return nil, errors.New("a required claim is missing")
	}
	return &c, nil
}

// canonicalSegment is what a segment encodes that is base64url in its only spelling: no padding, no line
// breaks, no spare bits. Otherwise one token would have many texts.
func canonicalSegment(v string) (decoded []byte, ok bool) {
	if v == "" || !isBase64URL(v) {
		return nil, false
	}
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(v)
	return decoded, err == nil
}
