package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/memory"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/watch"
)

const (
	// pulse is how often the database is asked for its clock. What it answers comes behind all notifications of what was committed before it was asked.
	pulse = 250 * time.Millisecond

	// trust is for how long after it was asked an answer stands for what the memory holds.
	trust = 750 * time.Millisecond

	// overdue is when an answer is late: watchers are told that they may have missed something, and others look whether the database is there. A connection
	// that is silent for longer than deadline is given up.
	overdue  = 500 * time.Millisecond
	deadline = 2 * time.Second

	// blind is how often watchers are told that they may have missed something, while nobody listens.
	blind = 900 * time.Millisecond

	// deaf is how long a notification to oneself may take that tells whether notifications arrive here at all.
	deaf = 2 * time.Second
)

// selfPrefix begins a notification by which a listener finds out whether it hears. Others pass it over: no kind begins so.
const selfPrefix = ":"

// listener has a connection of its own, on which it listens for what was changed, on whichever node, and asks for the database's clock. It knows until when the memory
// may be believed.
type listener struct {
	config   *pgx.ConnConfig
	password func(ctx context.Context, c *pgx.ConnConfig) error
	listens  bool                                                     // not only for the clock
	channel  string                                                   // of notifications
	notify   func(ctx context.Context, channel, payload string) error // over the way of the calls
	same     bool                                                     // it goes the way of the calls
	memory   *memory.Memory
	watchers *watch.Watchers
	clock    *clock
	outage   *outage
	logger   *zap.Logger

	asked   atomic.Pointer[time.Time] // when the last question was asked that was answered where notifications arrive
	hearing atomic.Bool               // the connection is there, and notifications arrive
	self    string                    // the payload of the notification to oneself that is waited for
	heard   bool                      // it has come
	warned  bool                      // that none do
	lost    time.Time                 // the connection, and not yet made anew
	first   chan error                // is closed when it has succeeded, and gets the error when it does not for longer than patience
	once    sync.Once                 // of either

	patience time.Duration
}

// trusted says whether the memory holds what was committed until a second ago. Neither of the process's clocks must have moved on by more than trust since the last question
// that was answered: the monotonic one stands still while some machines sleep.
func (l *listener) trusted(now time.Time) bool {
	return l.hearing.Load() && l.knewWithin(now, trust)
}

// knewWithin says whether the memory held all that was committed no longer ago than the age.
func (l *listener) knewWithin(now time.Time, age time.Duration) bool {
	asked := l.asked.Load()
	return asked != nil && now.Sub(*asked) < age && now.Round(0).Sub(asked.Round(0)).Abs() < age
}

// run keeps the connection until ctx ends.
func (l *listener) run(ctx context.Context) {
	start, pause := time.Now(), firstPause
	for {
		began := time.Now()
		err := l.session(ctx)
		ended := time.Now()
		l.hearing.Store(false)
		if !unreachable(err) || time.Since(start) > l.patience {
			l.once.Do(func() { l.first <- err })
		}
		if ctx.Err() != nil {
			return
		}
		l.watchers.TellAll()
		l.outage.suspect()
		if ended.Sub(began) > deadline {
			pause = firstPause
		}
		if l.lost.IsZero() {
			l.lost = ended
			l.logger.Warn("the connection that listens to the vault's database was lost, and is made anew; until then every request reads the database", zap.Error(err))
		}
		select {
		case <-time.After(about(pause)):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// session is the life of one connection. It begins with an empty memory, since nobody knows what was changed before it listened.
func (l *listener) session(ctx context.Context) error {
	conn, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	hears := false
	if l.listens {
		if hears, err = l.listen(ctx, conn); err != nil {
			return err
		}
	}
	for {
		asked := time.Now()
		if err := l.ask(ctx, conn, asked); err != nil {
			return err
		}
		if hears = hears || l.listens && l.heard; hears { // which may have come late
			l.asked.Store(&asked)
			if !l.hearing.Load() {
				l.memory.ForgetAll()
				l.hearing.Store(true)
				l.watchers.TellAll()
			}
		}
		l.once.Do(func() { close(l.first) })
		if !l.lost.IsZero() {
			l.logger.Info("the connection that listens to the vault's database is back", zap.Duration("gone_for", time.Since(l.lost)))
			l.lost = time.Time{}
		}
		if err := l.wait(ctx, conn, asked.Add(pulse)); err != nil {
			return err
		}
	}
}

func (l *listener) connect(ctx context.Context) (*pgconn.PgConn, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	config := l.config.Copy()
	if err := l.password(ctx, config); err != nil {
		return nil, err
	}
	config.RuntimeParams["application_name"] += " listener" // by which the database's operator tells it from the others
	config.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { l.notified(n) }
	return pgconn.ConnectConfig(ctx, &config.Config)
}

// listen begins to listen, and has itself notified, by another connection, to find out whether that comes here.
func (l *listener) listen(ctx context.Context, conn *pgconn.PgConn) (hears bool, err error) {
	asked, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	if _, err := conn.Exec(asked, "LISTEN "+quote(l.channel)).ReadAll(); err != nil {
		return false, err
	}
	l.self, l.heard = selfPrefix+rand.Text(), false
	if err := l.notify(asked, l.channel, l.self); err != nil {
		return false, err
	}
	late := time.Now().Add(deaf)
	for !l.heard && time.Now().Before(late) {
		if err := l.next(ctx, conn, late); err != nil {
			return false, err
		}
	}
	if !l.heard && !l.warned {
		l.warned = true
		l.logger.Warn("notifications of the database do not arrive: is there a proxy in between that pools transactions? Every request reads the database until listen names a "+
			"connection string that leads to PostgreSQL itself; listen off says that there is none", zap.Duration("waited", deaf))
	}
	return l.heard, nil
}

// ask asks for the database's clock.
func (l *listener) ask(ctx context.Context, conn *pgconn.PgConn, asked time.Time) error {
	late := time.AfterFunc(overdue, func() {
		l.watchers.TellAll()
		l.outage.suspect()
	})
	defer late.Stop()
	ctx, cancel := context.WithDeadline(ctx, asked.Add(deadline))
	defer cancel()
	results, err := conn.Exec(ctx, "SELECT (extract(epoch FROM clock_timestamp()) OPERATOR(pg_catalog.*) 1000000)::bigint").ReadAll()
	if err != nil {
		return err
	}
	answered := time.Now()
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1 {
		return errors.New("the database does not tell the time")
	}
	text := string(results[0].Rows[0][0])
	micros, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("the database tells the time %q", text)
	}
	l.clock.set(asked, answered, time.UnixMicro(micros))
	if l.same {
		l.outage.answered()
	}
	return nil
}

// wait takes in notifications until it is time.
func (l *listener) wait(ctx context.Context, conn *pgconn.PgConn, until time.Time) error {
	for ctx.Err() == nil && time.Now().Before(until) {
		if err := l.next(ctx, conn, until); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// next waits for a notification, until it is time.
func (l *listener) next(ctx context.Context, conn *pgconn.PgConn, until time.Time) error {
	bounded, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	err := conn.WaitForNotification(bounded)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil && !conn.IsClosed() {
		return nil
	}
	return err
}

// notified acts on a notification: the kind and the id of a row, or a kind alone.
func (l *listener) notified(n *pgconn.Notification) {
	if n.Channel != l.channel {
		return
	}
	if strings.HasPrefix(n.Payload, selfPrefix) {
		l.heard = l.heard || n.Payload == l.self
		return
	}
	name, id, _ := strings.Cut(n.Payload, " ")
	kind := tokenstore.Kind(name)
	switch {
	case !memory.Keeps(kind):
	case id == "":
		l.memory.ForgetKind(kind)
	default:
		l.memory.Forget(memory.Key{Kind: kind, ID: id})
	}
	l.watchers.Tell(kind, id)
}

// tellBlind tells watchers again and again that they may have missed something, while nobody hears, until ctx ends.
func (l *listener) tellBlind(ctx context.Context) {
	ticker := time.NewTicker(blind)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			if !l.trusted(now) && !l.outage.gone() {
				l.watchers.TellAll()
			}
		case <-ctx.Done():
			return
		}
	}
}
