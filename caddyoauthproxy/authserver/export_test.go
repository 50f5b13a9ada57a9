package authserver

import "time"

// Pass has time pass for the server, beside the vault's clock.
func (s *Server) Pass(d time.Duration) {
	s.clock.mu.Lock()
	defer s.clock.mu.Unlock()
	s.clock.at = s.clock.at.Add(-d)
}
