package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"code.dny.dev/ssrf"
)

// Guard configures NewGuarded.
type Guard struct {
	// Loopback admits addresses of this machine, and any port there: for a gateway that is itself on loopback
	// (Client ID Metadata Document draft §6), so in development.
	Loopback bool

	// RootCAs are the authorities that servers are checked against; nil means those of the system.
	RootCAs *x509.CertPool
}

const (
	// guardedTimeout bounds a whole guarded request, however slowly the answer drips.
	guardedTimeout = 5 * time.Second

	// guardedHeaders bounds the header of a guarded answer, in bytes.
	guardedHeaders = 16 << 10
)

// ErrNotFetched is the one error of Guarded.Get. Why it failed is in the wrapped text, for the log alone: told to
// whoever named the address it would describe the network behind the gateway.
var ErrNotFetched = errors.New("document could not be fetched")

// Guarded fetches documents from addresses that a stranger has named. It speaks https on port 443 only, follows no redirect, uses
// no proxy, keeps no connection, and judges the address that it is about to connect to, after the name was
// resolved, so that no name can lead to a private, local or otherwise special network (RFC 6890).
type Guarded struct{ client *http.Client }

// NewGuarded returns a guarded client.
func NewGuarded(g Guard) *Guarded {
	options := []ssrf.Option{ssrf.WithPorts(443)}
	if g.Loopback {
		options = []ssrf.Option{
			ssrf.WithAnyPort(),
			ssrf.WithAllowedV4Prefixes(netip.MustParsePrefix("127.0.0.0/8")),
			ssrf.WithAllowedV6Prefixes(netip.MustParsePrefix("::1/128")),
		}
	}
	dialer := &net.Dialer{Timeout: guardedTimeout, Control: ssrf.New(options...).Safe}
	return &Guarded{&http.Client{
		Timeout:       guardedTimeout,
		CheckRedirect: FollowNone,
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: g.RootCAs, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true,
			DisableCompression:     true, // so that the bound on the body bounds what is sent, too
			MaxResponseHeaderBytes: guardedHeaders,
		},
	}}
}

// Get fetches a document of at most limit bytes. Only status 200 counts. Its error is ErrNotFetched.
func (g *Guarded) Get(ctx context.Context, address string, limit int64) ([]byte, http.Header, error) {
	fail := func(cause error) ([]byte, http.Header, error) {
		return nil, nil, fmt.Errorf("%w: %w", ErrNotFetched, withoutURL(cause))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fail(err)
	}
	if req.URL.Scheme != "https" || req.URL.User != nil {
		return fail(errors.New("not an https address"))
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", UserAgent)
	resp, err := g.client.Do(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("status %d", resp.StatusCode))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return fail(err)
	case int64(len(body)) > limit:
		return fail(fmt.Errorf("longer than %d bytes", limit))
	}
	return body, resp.Header, nil
}

// withoutURL strips the address from an error of net/http: it is a stranger's text.
func withoutURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}
