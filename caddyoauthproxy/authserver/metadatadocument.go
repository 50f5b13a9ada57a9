package authserver

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net/http"
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

	// maxDocuments bounds the cache, in entries.
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

// perHost bounds how often one host is asked, so that strangers cannot have the gateway hammer it.
var perHost = Rate{30, time.Minute}

// documents fetches and keeps metadata documents and key sets.
type documents struct {
	off     bool
	hosts   []string
	fetch   *outbound.Guarded
	now     func() time.Time
	flights singleflight.Group
	perHost *limiter

	mu      sync.Mutex
	entries map[string]*list.Element
	order   *list.List // of *fetched, the latest used in front
}

// wanted is what is fetched: one address may be asked for as a document and as a key set.
type wanted struct {
	url   string
	limit int64
	parse func(body []byte) (any, error)
}

func (w wanted) key() string { return strconv.FormatInt(w.limit, 10) + " " + w.url }

// fetched is the outcome of a fetch: what was parsed, or an error.
type fetched struct {
	key    string
	value  any       // nil while there never was a good one
	until  time.Time // fresh
	err    error
	failed time.Time
}

func newDocuments(d Documents, loopback bool, now func() time.Time) *documents {
	if d.Fetch == nil {
		d.Fetch = outbound.NewGuarded(outbound.Guard{Loopback: loopback})
	}
	return &documents{off: d.Off, hosts: d.Hosts, fetch: d.Fetch, now: now, perHost: newLimiter(perHost, Rate{}), entries: make(map[string]*list.Element), order: list.New()}
}

// client is the client that the document at id describes, by a document that is stale for no longer than staleFor.
// Errors: tokenstore.ErrNotFound where no such client is accepted, and errUnreachableClient.
func (d *documents) client(ctx context.Context, id string, staleFor time.Duration) (*tokenstore.Client, error) {
	if err := d.accepts(id); err != nil {
		return nil, fmt.Errorf("client_id %w: %w", err, tokenstore.ErrNotFound)
	}
	v, err := d.get(ctx, wanted{id, maxDocument, func(body []byte) (any, error) { return parseDocument(id, body) }}, staleFor)
	if err != nil {
		return nil, err
	}
	return v.(*tokenstore.Client), nil
}

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
	case len(d.hosts) > 0 && !slices.ContainsFunc(d.hosts, func(h string) bool { return hostMatches(h, u.Host) }):
		return errors.New("is on a host whose client metadata documents this gateway does not accept")
	}
	return nil
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
	e := d.lookup(w.key())
	now := d.now()
	if e.value != nil && now.Before(e.until) {
		return e.value, nil
	}
	if e.err == nil || !now.Before(e.failed.Add(failedFor)) {
		work := context.WithoutCancel(ctx) // the fetch is bounded by itself, and others wait for it too
		v, _, _ := d.flights.Do(w.key(), func() (any, error) { return d.refresh(work, w, e), nil })
		e = v.(fetched)
	}
	switch {
	case e.err == nil:
		return e.value, nil
	case e.value != nil && now.Before(e.until.Add(staleFor)):
		return e.value, nil
	default:
		return nil, fmt.Errorf("%w: %w", errUnreachableClient, e.err)
	}
}

func (d *documents) lookup(key string) fetched {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.entries[key]; e != nil {
		d.order.MoveToFront(e)
		return *e.Value.(*fetched)
	}
	return fetched{key: key}
}

func (d *documents) refresh(ctx context.Context, w wanted, e fetched) fetched {
	now := d.now()
	var body []byte
	var header http.Header
	err := d.allowed(w.url, now)
	if err == nil {
		body, header, err = d.fetch.Get(ctx, w.url, w.limit)
	}
	var value any
	if err == nil {
		value, err = w.parse(body)
	}
	if err != nil {
		e.err, e.failed = errors.New(err.Error()), now // only its text: a refusal inside must not become the answer to a request
	} else {
		e = fetched{key: e.key, value: value, until: now.Add(freshFor(header, now))}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.entries[e.key]; old != nil {
		d.order.Remove(old)
	}
	d.entries[e.key] = d.order.PushFront(&e)
	for d.order.Len() > maxDocuments {
		delete(d.entries, d.order.Remove(d.order.Back()).(*fetched).key)
	}
	return e
}

// allowed counts a fetch against its host.
func (d *documents) allowed(address string, now time.Time) error {
	u, err := url.Parse(address)
	if err != nil {
		return errors.New("not a URL")
	}
	if d.perHost.take(u.Host, now) > 0 {
		return errors.New("its host was asked too often")
	}
	return nil
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
