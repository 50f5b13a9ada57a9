package testenv

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
)

// certificate is the one for 127.0.0.1 that package httptest brings along.
func certificate() tls.Certificate {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	return srv.TLS.Certificates[0]
}

// trustCertificate makes the clients of this process trust it.
func trustCertificate() {
	roots := x509.NewCertPool()
	if leaf, err := x509.ParseCertificate(certificate().Certificate[0]); err == nil {
		roots.AddCert(leaf)
	}
	http.DefaultTransport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// writeCertificate writes the certificate and its key where Caddy reads them, and returns the site's line about that.
func (w *World) writeCertificate() string {
	c := certificate()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, private := filepath.Join(w.dir, "site.crt"), filepath.Join(w.dir, "site.key")
	for path, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, private: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return "\n\ttls " + cert + " " + private + "\n"
}
