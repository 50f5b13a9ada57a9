package bbolt

import "github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"

// Watch implements tokenstore.Store.
func (s *Store) Watch(kind tokenstore.Kind, changed func(id string)) (stop func()) {
	return s.watchers.Watch(kind, changed)
}

// announce has the watchers told of changes. It waits for none of them.
func (s *Store) announce(changes []tokenstore.Change) {
	for _, c := range changes {
		if c.Op == tokenstore.OpCheck {
			continue
		}
		s.watchers.Tell(c.Row.Kind, c.Row.ID)
	}
}
