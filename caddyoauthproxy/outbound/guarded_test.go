package outbound_test

import (
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/outbound"
)

func TestT22GuardedRequestsReachNoSpecialAddress(t *testing.T) {
	t.Parallel()
	var seen atomic.Int64
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen.Add(1) }))
	t.Cleanup(srv.Close)
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	guarded := outbound.NewGuarded(outbound.Guard{RootCAs: pool(srv)})
	for _, address := range []string{
		srv.URL + "/doc.json", // loopback, and a port other than 443
		"https://127.0.0.1/doc.json",
		"https://localhost/doc.json",
		"https://localhost:" + port + "/doc.json",
		"https://[::1]/doc.json",
		"https://10.0.0.1/doc.json",
		"https://172.16.0.1/doc.json",
		"https://192.168.0.1/doc.json",
		"https://169.254.169.254/latest/meta-data",
		"https://[fe80::1]/doc.json",
		"https://[fd00::1]/doc.json",
		"https://[::ffff:169.254.169.254]/doc.json",
		"https://[64:ff9b::a9fe:a9fe]/doc.json",
		"https://[64:ff9b:1::a9fe:a9fe]/doc.json",
		"https://[2002:a9fe:a9fe::]/doc.json",
		"https://[2001::1]/doc.json",
		"https://0.0.0.0/doc.json",
		"https://[::]/doc.json",
		"https://100.64.0.1/doc.json",
		"https://192.0.2.1/doc.json",
		"https://198.18.0.1/doc.json",
		"https://224.0.0.1/doc.json",
		"https://255.255.255.255/doc.json",
		"https://0x7f000001/doc.json",
		"https://2130706433/doc.json",
		"https://example.com:2019/load",
		"http://example.com/doc.json",
		"file:///etc/passwd",
		"https://user:secret@example.com/doc.json",
	} {
		_, _, err := guarded.Get(t.Context(), address, 1<<10)
		if !errors.Is(err, outbound.ErrNotFetched) {
			t.Errorf("%s: got %v, want ErrNotFetched", address, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error holds a secret: %v", address, err)
		}
	}
	if n := seen.Load(); n != 0 {
		t.Errorf("%d requests arrived at the local server", n)
	}
}

func pool(srv *httptest.Server) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(srv.Certificate())
	return p
}

func TestT22GuardedRequestsFollowNoRedirectAndReadNoMoreThanTheLimit(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("0123456789")) })
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("0123456789a")) })
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
	mux.HandleFunc("/partial", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusPartialContent) })
	mux.HandleFunc("/unchanged", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) })
	mux.HandleFunc("/headers", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 20<<10)) })
	srv := httptest.NewTLSServer(mux)
	t.Cleanup(srv.Close)
	guarded := outbound.NewGuarded(outbound.Guard{Loopback: true, RootCAs: pool(srv)})
	body, _, err := guarded.Get(t.Context(), srv.URL+"/ok", 10)
	if err != nil || string(body) != "0123456789" {
		t.Fatalf("got %q, %v", body, err)
	}
	for _, path := range []string{"/long", "/redirect", "/partial", "/unchanged", "/headers", "/missing"} {
		if _, _, err := guarded.Get(t.Context(), srv.URL+path, 10); !errors.Is(err, outbound.ErrNotFetched) {
			t.Errorf("%s: got %v", path, err)
		}
	}
	if elsewhere.Load() != 0 {
		t.Error("a redirect was followed")
	}
	if _, _, err := outbound.NewGuarded(outbound.Guard{Loopback: true}).Get(t.Context(), srv.URL+"/ok", 10); err == nil {
		t.Error("a certificate that nobody vouches for was accepted")
	}
	if _, _, err := guarded.Get(t.Context(), "https://10.0.0.1/ok", 10); !errors.Is(err, outbound.ErrNotFetched) {
		t.Errorf("a private address from a gateway on loopback: %v", err)
	}
}
