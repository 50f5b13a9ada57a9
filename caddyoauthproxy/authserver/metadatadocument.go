package authserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/outbound"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Documents says whose client ID metadata documents are accepted
// (draft-ietf-oauth-client-id-metadata-document): clients whose client_id is the https URL of their own metadata.
type Documents struct {
	// Off accepts none.
	Off bool

	// Hosts are the hosts whose documents are accepted, such as claude.ai, or *.example.com for every host
	// below example.com. Empty accepts those of every public host.
	Hosts []string

	// Fetch fetches documents and key sets. Default: outbound.NewGuarded.
	Fetch *outbound.Guarded
}

// Bounds of a metadata document.
const (
	maxDocument = 5 << 10  // bytes (draft §4.6)
	maxKeySet   = 32 << 10 // bytes of what jwks_uri leads to

	// maxDocumentID keeps a client_id within what a reference in the vault can hold.
	maxDocumentID = 185

	// maxDocuments bounds each of the caches, in entries.
	maxDocuments = 1024

	// The cache follows the answer's headers (RFC 9111) between these two.
	minFresh = 5 * time.Minute
	maxFresh = 24 * time.Hour

	// staleForToken is how long beyond that the token endpoint goes by the last good document, when a
	// new one cannot be fetched: a client's web site that is down should log nobody out.
	staleForToken = 24 * time.Hour

	// failedFor is how long a failed fetch is not repeated. Errors are not cached beyond that.
	failedFor = 30 * time.Second
)

// perHost bounds how often one host is asked on behalf of each trust, so that strangers cannot have the gateway hammer it.
var perHost = Rate{30, time.Minute}

// trust is what is known of an address before it is fetched. Each has a budget of its own at every host, so that addresses
// which somebody made up cost nothing to those that are in use.
type trust int

const (
	unheardOf trust = iota // whatever somebody wrote into a request
	wasGood                // something good was fetched from it before
	inUse                  // a client that has tokens of this gateway is behind it
)

// documents fetches and keeps metadata documents and key sets.
type documents struct {
	off     bool
	hosts   []string
	fetch   *outbound.Guarded
	now     func() time.Time
	granted func(ctx context.Context, clientID string) bool
	flights singleflight.Group
	perHost map[trust]*limiter

	// What is fetched for strangers, be it good or bad, drives out nothing that is in use.
	mu         sync.Mutex
	used, seen *recent[string, fetched]
	failed     *recent[string, failure]
}

// wanted is what is fetched: one address may be asked for as a document and as a key set.
type wanted struct {
	url    string
	limit  int64
	client string // whose grants speak for the address; empty where anybody may have named it
	parse  func(body []byte) (any, error)
}

func (w wanted) key() string { return strconv.FormatInt(w.limit, 10) + " " + w.url }

// fetched is what was parsed, and until when it is fresh.
type fetched struct {
	value any
	until time.Time
}

// failure is why nothing could be fetched, and when.
type failure struct {
	err error
	at  time.Time
}

// newDocuments makes an empty cache. granted says whether a client holds grants of this gateway.
func newDocuments(d Documents, loopback bool, now func() time.Time, granted func(ctx context.Context, clientID string) bool) *documents {
	if d.Fetch == nil {
		d.Fetch = outbound.NewGuarded(outbound.Guard{Loopback: loopback})
	}
	return &documents{
		off: d.Off, hosts: d.Hosts, fetch: d.Fetch, now: now, granted: granted,
		perHost: map[trust]*limiter{unheardOf: newLimiter(perHost, Rate{}), wasGood: newLimiter(perHost, Rate{}), inUse: newLimiter(perHost, Rate{})},
		used:    newRecent[string, fetched](maxDocuments), seen: newRecent[string, fetched](maxDocuments), failed: newRecent[string, failure](maxDocuments),
	}
}

// client is the client that the document at id describes, by a document that is stale for no longer than staleFor.
// Errors: tokenstore.ErrNotFound where no such client is accepted, and errUnreachableClient.
func (d *documents) client(ctx context.Context, id string, staleFor time.Duration) (*tokenstore.Client, error) {
	if err := d.accepts(id); err != nil {
		return nil, &unacceptableIDError{err}
	}
	v, err := d.get(ctx, wanted{id, maxDocument, id, func(body []byte) (any, error) { return parseDocument(id, body) }}, staleFor)
	if err != nil {
		return nil, err
	}
	return v.(*tokenstore.Client), nil
}

// unacceptableIDError says what is wrong with a client_id that is a URL. To those who need not know it is tokenstore.ErrNotFound.
type unacceptableIDError struct{ why error }

func (e *unacceptableIDError) Error() string { return "client_id " + e.why.Error() }
func (e *unacceptableIDError) Unwrap() error { return tokenstore.ErrNotFound }

// accepts judges the URL by itself (draft §3) and by the operator's hosts. It says what is wrong with it.
func (d *documents) accepts(id string) error {
	u, err := url.Parse(id)
	switch {
	case d.off:
		return errors.New("is a URL, and this gateway accepts no client metadata documents")
	case err != nil, len(id) > maxDocumentID, strings.ContainsAny(id, "\\#*\"<>"), strings.IndexFunc(id, func(c rune) bool { return c <= ' ' || c >= 0x7f }) >= 0:
		return fmt.Errorf("is not a URL of at most %d printable ASCII characters without fragment", maxDocumentID)
	case u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Path == "" || dotSegment(u.EscapedPath()):
		return errors.New("must be an https URL with a path, without user information and dot segments")
	case !strings.HasPrefix(id, "https://"+canonicalHost(u)+"/"):
		return errors.New("must have its host in lower case, without a dot at the end, port 443, and zeros before a port")
	case len(d.hosts) > 0 && !slices.ContainsFunc(d.hosts, func(h string) bool { return hostMatches(h, u.Host) }):
		return errors.New("is on a host whose client metadata documents this gateway does not accept")
	}
	return nil
}

// canonicalHost is the one spelling, with the port where that is not 443, of the host that a URL leads to.
func canonicalHost(u *url.URL) string {
	host := strings.TrimRight(strings.ToLower(u.Hostname()), ".")
	if addr, err := netip.ParseAddr(host); err == nil {
		host = addr.Unmap().String()
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port := strings.TrimLeft(u.Port(), "0"); port != "" && port != "443" {
		host += ":" + port
	}
	return host
}

// hostMatches compares a host with an entry of Documents.Hosts.
func hostMatches(entry, host string) bool {
	host = strings.ToLower(host)
	if below, ok := strings.CutPrefix(entry, "*."); ok {
		return strings.HasSuffix(host, "."+strings.ToLower(below))
	}
	return strings.ToLower(entry) == host
}

// parseDocument checks a document (draft §4.1): its client_id is its own URL, character by character, and there is
// no shared secret in it. Its redirect URIs are judged where they are used.
func parseDocument(id string, body []byte) (*tokenstore.Client, error) {
	m, refusal := parseRegistration(body)
	switch {
	case refusal != nil:
		return nil, refusal
	case m.ClientID != id:
		return nil, errors.New("its client_id is not the URL that it was fetched from")
	case m.ClientSecret != nil || m.ClientSecretExpiresAt != nil:
		return nil, errors.New("it has a client_secret, which no public document may have")
	case m.ClientName == "":
		return nil, errors.New("it has no client_name")
	case len(m.RedirectURIs) == 0:
		return nil, errors.New("it has no redirect_uris")
	}
	if m.AuthMethod == "" {
		m.AuthMethod = authNone
	}
	if m.AuthMethod != authNone && m.AuthMethod != authPrivateKey {
		return nil, errors.New("its token_endpoint_auth_method is neither none nor private_key_jwt")
	}
	c := new(tokenstore.Client)
	if err := m.apply(c); err != nil {
		return nil, err
	}
	c.ID = id
	return c, nil
}

// get returns what is at the address: fresh from the cache, fetched, or stale for no longer than staleFor.
// Concurrent fetches of the same are one.
func (d *documents) get(ctx context.Context, w wanted, staleFor time.Duration) (any, error) {
	now := d.now()
	e, known, err := d.lookup(w.key(), now)
	if known && now.Before(e.until) {
		return e.value, nil
	}
	if err == nil {
		work := context.WithoutCancel(ctx) // the fetch is bounded by itself, and others wait for it too
		var v any
		if v, err, _ = d.flights.Do(w.key(), func() (any, error) { return d.refresh(work, w, known) }); err == nil {
			return v, nil
		}
	}
	if known && now.Before(e.until.Add(staleFor)) {
		return e.value, nil
	}
	return nil, fmt.Errorf("%w: %w", errUnreachableClient, err)
}

// lookup finds what is kept, and the failure that is too fresh to try again.
func (d *documents) lookup(key string, now time.Time) (e fetched, known bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e, known = d.used.get(key); !known {
		e, known = d.seen.get(key)
	}
	if f, ok := d.failed.get(key); ok && now.Before(f.at.Add(failedFor)) {
		err = f.err
	}
	return e, known, err
}

// refresh fetches, and keeps what comes of it.
func (d *documents) refresh(ctx context.Context, w wanted, known bool) (any, error) {
	now := d.now()
	trust := d.trustOf(ctx, w, known)
	if err := d.allowed(w.url, trust, now); err != nil {
		return nil, err // nothing was fetched, so nothing is remembered either
	}
	body, header, err := d.fetch.Get(ctx, w.url, w.limit)
	var value any
	if err == nil {
		value, err = w.parse(body)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		err = errors.New(err.Error()) // only its text: a refusal inside must not become the answer to a request
		d.failed.put(w.key(), failure{err, now})
		return nil, err
	}
	d.failed.remove(w.key())
	cache := d.seen
	if trust == inUse {
		d.seen.remove(w.key())
		cache = d.used
	}
	cache.put(w.key(), fetched{value, now.Add(freshFor(header, now))})
	return value, nil
}

// keep is called when a client gets a token: from now on only what belongs to others that did can drive out its document and keys.
func (d *documents) keep(c *tokenstore.Client) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, key := range []string{wanted{url: c.ID, limit: maxDocument}.key(), wanted{url: c.JWKSURI, limit: maxKeySet}.key()} {
		if e, ok := d.seen.get(key); ok {
			d.seen.remove(key)
			d.used.put(key, e)
		}
	}
}

// allowed counts a fetch against its host.
func (d *documents) allowed(address string, t trust, now time.Time) error {
	u, err := url.Parse(address)
	if err != nil {
		return errors.New("not a URL")
	}
	if d.perHost[t].take(canonicalHost(u), now) > 0 {
		return errors.New("its host was asked too often")
	}
	return nil
}

// trustOf says what is known of an address. The grants are asked for too, because the cache is empty after a restart.
func (d *documents) trustOf(ctx context.Context, w wanted, known bool) trust {
	d.mu.Lock()
	_, used := d.used.get(w.key())
	d.mu.Unlock()
	switch {
	case used, w.client != "" && d.granted(ctx, w.client):
		return inUse
	case known:
		return wasGood
	default:
		return unheardOf
	}
}

// freshFor reads how long an answer may be kept (RFC 9111 §4.2.1), within our own bounds.
func freshFor(h http.Header, now time.Time) time.Duration {
	fresh := time.Hour
	if at, err := http.ParseTime(h.Get("Expires")); err == nil {
		fresh = at.Sub(now)
	}
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			return minFresh
		case "max-age":
			if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				fresh = time.Duration(n) * time.Second
			}
		}
	}
	return min(max(fresh, minFresh), maxFresh)
}
