package postgres

import (
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// Status is how a Store is with its database, for metrics and for who asks whether this node is ready.
type Status struct {
	// Reachable says that the database answers; Since, by this process's clock, since when it does, or does not.
	Reachable bool
	Since     time.Time

	// Listening says that this node hears what others change, so that Recall answers from memory.
	Listening bool

	// Connections of the pool: those that there are, those of them that are in use, and the most that there may be. Calls is how many calls run, or
	// wait for one of them, or for the database to come back.
	Connections, InUse, MaxConns, Calls int

	// Contact is when the database has last answered, by this process's clock.
	Contact time.Time

	// Repeats is how often, since the Store was opened, a call was made again, because another was in its way or its connection was lost; Waits is how often one
	// found no idle connection, and waited for one or made it.
	Repeats, Waits uint64
}

// Recalls says what is in memory, and what for.
func (s *Store) Recalls() tokenstore.Recalls { return s.memory.Stat() }

// Status says how the Store is with its database. It asks nobody.
func (s *Store) Status() Status {
	stat := s.pool.Stat()
	st := Status{
		Listening:   s.listener.trusted(time.Now()),
		Connections: int(stat.TotalConns()), InUse: int(stat.AcquiredConns()), MaxConns: int(stat.MaxConns()),
		Calls: int(s.calls.Load()),
	}
	st.Reachable, st.Since = s.outage.state()
	st.Contact = s.outage.contact()
	st.Repeats, st.Waits = s.repeats.Load(), uint64(max(stat.EmptyAcquireCount(), 0))
	return st
}
