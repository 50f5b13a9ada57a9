package authserver

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// serverMetadata is the RFC 8414 document. Members without a value are left out (§3.2).
type serverMetadata struct {
	Issuer                            string   `json:"issuer"`
	AuthorizationEndpoint             string   `json:"authorization_endpoint"`
	TokenEndpoint                     string   `json:"token_endpoint"`
	RegistrationEndpoint              string   `json:"registration_endpoint,omitempty"`
	RevocationEndpoint                string   `json:"revocation_endpoint"`
	IntrospectionEndpoint             string   `json:"introspection_endpoint"`
	JWKSURI                           string   `json:"jwks_uri"`
	ScopesSupported                   []string `json:"scopes_supported,omitempty"`
	ResponseTypesSupported            []string `json:"response_types_supported"`
	ResponseModesSupported            []string `json:"response_modes_supported"`
	GrantTypesSupported               []string `json:"grant_types_supported"`
	CodeChallengeMethodsSupported     []string `json:"code_challenge_methods_supported"`
	TokenEndpointAuthMethods          []string `json:"token_endpoint_auth_methods_supported"`
	RevocationEndpointAuthMethods     []string `json:"revocation_endpoint_auth_methods_supported"`
	IntrospectionEndpointAuthMethods  []string `json:"introspection_endpoint_auth_methods_supported"`
	TokenEndpointAuthSigningAlgs      []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	RevocationEndpointAuthSigningAlgs []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	IntrospectionAuthSigningAlgs      []string `json:"introspection_endpoint_auth_signing_alg_values_supported"`
	AuthorizationResponseISSSupported bool     `json:"authorization_response_iss_parameter_supported"`
	ClientIDMetadataDocumentSupported bool     `json:"client_id_metadata_document_supported"`

	// Subject types and ID token algorithms are required by OpenID Connect Discovery
	// and only there for clients that read this document under that name.
	SubjectTypesSupported            []string `json:"subject_types_supported"`
	IDTokenSigningAlgValuesSupported []string `json:"id_token_signing_alg_values_supported"`
}

// resourceMetadata is the RFC 9728 document of one proxy.
type resourceMetadata struct {
	Resource               string   `json:"resource"`
	AuthorizationServers   []string `json:"authorization_servers"`
	ScopesSupported        []string `json:"scopes_supported,omitempty"`
	BearerMethodsSupported []string `json:"bearer_methods_supported"`
	ResourceName           string   `json:"resource_name,omitempty"`
}

// metadataMaxAge is how long others may cache the documents and the key set.
const metadataMaxAge = 5 * time.Minute

// ServeMetadata answers the well-known documents, on the issuer's site and on
// those of the proxies. It reports false, and writes nothing, for any other path.
func (s *Server) ServeMetadata(w http.ResponseWriter, r *http.Request) bool {
	doc, known := s.metadata(r)
	if !known {
		return false
	}
	if preflight(w, r, http.MethodGet, http.MethodHead) {
		return true
	}
	if !methodIs(w, r, http.MethodGet, http.MethodHead) {
		return true
	}
	if doc == nil {
		writeJSON(w, http.StatusNotFound, map[string]string{
			"error":             "not_found",
			"error_description": "this gateway has no such document",
		})
		return true
	}
	w.Header().Set("Cache-Control", "public, max-age="+strconv.Itoa(seconds(metadataMaxAge)))
	writeJSON(w, http.StatusOK, doc)
	return true
}

func (s *Server) isMetadata(r *http.Request) bool {
	_, known := s.metadata(r)
	return known
}

// metadata finds the document for a path: known says that the path is one of
// ours, and a nil document with known that there is none there.
func (s *Server) metadata(r *http.Request) (doc any, known bool) {
	path := r.URL.EscapedPath()
	switch path {
	case asMetadataPath, oidcMetadataPath, // issuer without a path, or a client that ignores it
		asMetadataPath + s.base, oidcMetadataPath + s.base, // RFC 8414 §3.1
		s.base + oidcMetadataPath, s.base + asMetadataPath: // OpenID Connect Discovery §4
		return s.serverMetadata(r.URL.Query().Get("proxy_id")), true
	case s.base + jwksPath:
		return s.keys.public(), true
	}
	if rest, ok := strings.CutPrefix(path, prMetadataPath); ok && (rest == "" || rest[0] == '/') {
		if p := s.proxyByResourcePath(strings.TrimSuffix(rest, "/"), r.Host); p != nil {
			return s.resourceMetadata(p), true
		}
		return nil, true
	}
	return nil, false
}

// serverMetadata is the gateway's document. With a proxy id the endpoints are those pinned to the
// proxy, for clients that cannot send a resource; the issuer is the same.
func (s *Server) serverMetadata(proxyID string) any {
	scopes := s.scopes()
	if proxyID != "" {
		p := s.proxies[proxyID]
		if p == nil {
			return nil
		}
		scopes = p.Scopes
	}
	registration := s.endpoint(proxyID, "register")
	if s.registration.Off {
		registration = ""
	}
	grants := []string{grantCode, grantRefresh}
	if s.hasMachineClients() {
		grants = append(grants, grantMachine)
	}
	challengeMethods := []string{"S256"}
	if s.plainPKCE {
		challengeMethods = append(challengeMethods, "plain")
	}
	confidential := []string{authPost, authBasic, authPrivateKey}
	methods := append([]string{authNone}, confidential...)
	return &serverMetadata{
		Issuer:                            s.issuer,
		AuthorizationEndpoint:             s.endpoint(proxyID, "authorize"),
		TokenEndpoint:                     s.endpoint(proxyID, "token"),
		RegistrationEndpoint:              registration,
		RevocationEndpoint:                s.endpoint(proxyID, "revoke"),
		IntrospectionEndpoint:             s.endpoint(proxyID, "introspect"),
		JWKSURI:                           s.issuer + jwksPath,
		ScopesSupported:                   scopes,
		ResponseTypesSupported:            []string{"code"},
		ResponseModesSupported:            []string{"query"},
		GrantTypesSupported:               grants,
		CodeChallengeMethodsSupported:     challengeMethods,
		TokenEndpointAuthMethods:          methods,
		RevocationEndpointAuthMethods:     methods,
		IntrospectionEndpointAuthMethods:  confidential,
		TokenEndpointAuthSigningAlgs:      algorithmNames(assertionAlgorithms),
		RevocationEndpointAuthSigningAlgs: algorithmNames(assertionAlgorithms),
		IntrospectionAuthSigningAlgs:      algorithmNames(assertionAlgorithms),
		AuthorizationResponseISSSupported: true,
		ClientIDMetadataDocumentSupported: !s.documents.off,
		SubjectTypesSupported:             []string{"public"},
		IDTokenSigningAlgValuesSupported:  []string{s.keys.options.Algorithm},
	}
}

func algorithmNames(algorithms []jose.SignatureAlgorithm) []string {
	names := make([]string, 0, len(algorithms))
	for _, a := range algorithms {
		names = append(names, string(a))
	}
	return names
}

// endpoint is the absolute URL of an endpoint, pinned when a proxy is named.
func (s *Server) endpoint(proxyID, name string) string {
	if proxyID != "" {
		name = url.PathEscape(proxyID) + "/" + name
	}
	return s.issuer + endpointPath + "/" + name
}

func (s *Server) scopes() []string {
	var all []string
	seen := make(map[string]bool)
	for _, p := range s.order {
		for _, sc := range p.Scopes {
			if !seen[sc] {
				seen[sc] = true
				all = append(all, sc)
			}
		}
	}
	return all
}

func (s *Server) resourceMetadata(p *Proxy) *resourceMetadata {
	return &resourceMetadata{
		Resource:               p.Resource,
		AuthorizationServers:   []string{s.issuer},
		ScopesSupported:        p.Scopes,
		BearerMethodsSupported: []string{"header"},
		ResourceName:           p.Name,
	}
}

// ResourceMetadataURL is where a proxy's RFC 9728 document is: the well-known
// name goes between the resource's host and path (§3.1).
func ResourceMetadataURL(p *Proxy) string {
	u := *p.ResourceURL
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	return u.Scheme + "://" + u.Host + prMetadataPath + path
}

// proxyByResourcePath finds the proxy whose resource has this path. The host only
// chooses between several; it never becomes part of an answer. Without a path the
// answer must be beyond doubt: the only proxy, or the only one of that host.
func (s *Server) proxyByResourcePath(path, host string) *Proxy {
	var found, foundHere []*Proxy
	for _, p := range s.order {
		if path != "" && strings.TrimSuffix(p.ResourceURL.EscapedPath(), "/") != path {
			continue
		}
		found = append(found, p)
		if sameHost(p.ResourceURL, host) {
			foundHere = append(foundHere, p)
		}
	}
	switch {
	case len(found) == 1:
		return found[0]
	case len(foundHere) == 1:
		return foundHere[0]
	case path == "":
		// Several proxies on this host: one of them may be the host's root itself.
		for _, p := range foundHere {
			if strings.TrimSuffix(p.ResourceURL.EscapedPath(), "/") == "" {
				return p
			}
		}
	}
	return nil
}

func sameHost(u *url.URL, host string) bool {
	defaultPort := map[string]string{"https": ":443", "http": ":80"}[u.Scheme]
	norm := func(h string) string { return strings.TrimSuffix(strings.ToLower(h), defaultPort) }
	return norm(u.Host) == norm(host)
}

// s256 is the PKCE S256 transformation (RFC 7636 §4.2).
func s256(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
