package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// reach finds out whether the database answers, over a new connection on the way that calls go. One that has no place left for it is there.
func (s *Store) reach(ctx context.Context) error {
	err := s.anew(ctx, func(context.Context, *pgconn.PgConn) error { return nil }) // connecting asks already, see writable
	if code(err) == codeTooManyConnections {
		return nil
	}
	return err
}

// notify notifies who listens, over a new connection on the way that calls go.
func (s *Store) notify(ctx context.Context, channel, payload string) error {
	return s.anew(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		return c.ExecParams(ctx, "SELECT pg_notify($1::text, $2::text)", [][]byte{[]byte(channel), []byte(payload)}, nil, nil, nil).Read().Err
	})
}

// anew runs something on a new connection, beside those of the pool.
func (s *Store) anew(ctx context.Context, run func(ctx context.Context, c *pgconn.PgConn) error) error {
	config := s.config.Copy()
	if err := s.password(ctx, config); err != nil {
		return err
	}
	c, err := pgconn.ConnectConfig(ctx, &config.Config)
	if err != nil {
		return err
	}
	defer hangUp(c)
	return run(ctx, c)
}

// hangUp closes a connection, without waiting long for the other end.
func hangUp(c *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx) // nobody needs it any more
}

// connectListener makes what listens, which connects to nothing yet.
func (s *Store) connectListener(o Options) error {
	config := s.config.Copy()
	if o.Listen != "" {
		p, err := poolConfig(o, o.Listen)
		if err != nil {
			return err
		}
		config = p.ConnConfig
	}
	config.DialFunc = s.ears.dial
	s.listener = &listener{
		config: config, password: o.password, listens: !o.ListenOff, same: o.Listen == "", channel: s.name, notify: s.notify,
		memory: s.memory, watchers: s.watchers, clock: s.clock, outage: s.outage, logger: s.logger, first: make(chan error, 1), patience: s.wait,
	}
	return nil
}

// listen runs what goes on in the background, and returns when the database has told its time, and notifications arrive or are known not to.
func (s *Store) listen(ctx context.Context) error {
	var life context.Context
	life, s.end = context.WithCancel(context.Background())
	for _, run := range []func(context.Context){s.listener.run, s.listener.tellBlind, s.emptyRates} {
		s.background.Go(func() { run(life) })
	}
	select {
	case err := <-s.listener.first:
		if err == nil {
			s.outage.begin()
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// silence is how long Close leaves connections that it ends to pgx, which tells the database, before it closes them as they are.
const silence = time.Second

// finish ends what runs in the background, then the connections.
func (s *Store) finish() {
	if s.end != nil {
		s.end()
	}
	s.outage.close()
	late := time.AfterFunc(s.wait+silence, s.sockets.end) // by then no call is left that has a connection
	s.running.Wait()
	late.Stop()
	late = time.AfterFunc(silence, func() {
		s.sockets.end()
		s.ears.end()
	})
	defer late.Stop()
	s.background.Wait()
	s.pool.Close()
	s.sockets.end()
	s.ears.end()
}
