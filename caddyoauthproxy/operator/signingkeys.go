package operator

import "net/http"

// listSigningKeys is GET /signing_keys.
func (s *Server) listSigningKeys(http.ResponseWriter, *http.Request) (any, error) {
	return s.options.Gateway.SigningKeys(), nil
}

// rotateSigningKey is POST /signing_keys/rotate.
func (s *Server) rotateSigningKey(_ http.ResponseWriter, r *http.Request) (any, error) {
	var compromised bool
	switch text := param(r, "compromised"); text {
	case "", "false":
	case "true":
		compromised = true
	default:
		return nil, bad("compromised %q is neither true nor false", text)
	}
	if err := s.options.Gateway.RotateSigningKey(r.Context(), compromised); err != nil {
		return nil, err
	}
	return s.options.Gateway.SigningKeys(), nil
}
