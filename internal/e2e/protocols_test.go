package e2e

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

// overTLS starts a gateway before an MCP server, that speaks all versions of HTTP.
func overTLS(t *testing.T, server, site string) *testenv.World {
	t.Helper()
	return testenv.Start(t, testenv.Options{HTTPS: true, Site: site, Caddyfile: func(w *testenv.World) string {
		return strings.NewReplacer("protocols h1 h2c", "protocols h1 h2 h3", w.MCPURL, server).Replace(w.CaddyfileWith(""))
	}})
}

// clientsOf returns a client for each version of HTTP. They ask for no encoding by themselves.
func clientsOf(t *testing.T) map[string]*http.Client {
	t.Helper()
	trust := http.DefaultTransport.(*http.Transport).TLSClientConfig
	client := func(set func(*http.Protocols)) *http.Client {
		tr := &http.Transport{TLSClientConfig: trust.Clone(), DisableCompression: true, Protocols: new(http.Protocols)}
		set(tr.Protocols)
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	h3 := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: trust.RootCAs, MinVersion: tls.VersionTLS13}, DisableCompression: true}
	t.Cleanup(func() { _ = h3.Close() })
	return map[string]*http.Client{
		"HTTP/1.1": client(func(p *http.Protocols) { p.SetHTTP1(true) }),
		"HTTP/2.0": client(func(p *http.Protocols) { p.SetHTTP2(true) }),
		"HTTP/3.0": {Transport: h3},
	}
}
