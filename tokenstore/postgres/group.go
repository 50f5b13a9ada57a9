package postgres

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore/internal/memory"
)

const (
	// maxGroups is how many groups of Applies are on their way at a time. PostgreSQL commits one after the other what notifies, so that more would only wait there.
	maxGroups = 2

	// maxGroup and maxGroupBytes bound a group: so long its rows are locked, and so much is to be sent again when the connection is lost.
	maxGroup      = 64
	maxGroupBytes = 1 << 20

	// maxSlots is how many Applies can be on their way, in groups or alone.
	maxSlots = 2 * maxGroups * maxGroup
)

// pending is an Apply on its way.
type pending struct {
	*batch
	ctx      context.Context
	slot     int32
	sequence int64
	outcome  int
	err      error
	done     chan struct{} // closed when outcome and err are there
}

// queue holds Applies that wait for a group.
type queue struct {
	mutex  sync.Mutex
	wait   []*pending
	groups int // on their way
}

// send has an Apply made, with what waits at the same time, and tells by p.done. It does not wait.
func (s *Store) send(p *pending) {
	if p.alone() {
		s.running.Go(func() { s.applyAlone(p) })
		return
	}
	s.queue.mutex.Lock()
	defer s.queue.mutex.Unlock()
	s.queue.wait = append(s.queue.wait, p)
	if s.queue.groups < maxGroups {
		s.queue.groups++
		s.running.Go(s.applyGroups)
	}
}

// applyGroups makes groups of what waits until nothing does.
func (s *Store) applyGroups() {
	for {
		group := s.gather()
		switch len(group) {
		case 0:
			return
		case 1:
			s.applyAlone(group[0])
		default:
			s.applyGroup(group)
		}
	}
}

// gather takes what waits already; it does not wait for more. Nothing means that this was the end.
func (s *Store) gather() []*pending {
	s.queue.mutex.Lock()
	defer s.queue.mutex.Unlock()
	n, size := 0, 0
	for n < len(s.queue.wait) && n < maxGroup && (n == 0 || size+s.queue.wait[n].size <= maxGroupBytes) {
		size += s.queue.wait[n].size
		n++
	}
	if n == 0 {
		s.queue.groups--
		return nil
	}
	group := slices.Clone(s.queue.wait[:n])
	s.queue.wait = slices.Delete(s.queue.wait, 0, n)
	return group
}

// alone reports whether an Apply is too large for a group, or takes the lock alone that others share.
func (b *batch) alone() bool { return b.rings || len(b.ids) > maxGroup || b.size > maxGroupBytes/4 }

// applyGroup makes Applies in one transaction, each judged by itself. When that fails, or nobody knows how it ended, each is made alone: the database knows which were made.
func (s *Store) applyGroup(group []*pending) {
	_, err := ask(context.Background(), s, manner{once: true, lane: s.writing}, func(ctx context.Context, c *pgxpool.Conn) (struct{}, error) {
		return struct{}{}, s.sendGroup(ctx, c, group)
	})
	for _, p := range group {
		if err != nil {
			s.running.Go(func() { s.applyAlone(p) })
			continue
		}
		s.applied(p)
	}
}

// sendGroup sends the calls together, and reads how each ended when all have.
func (s *Store) sendGroup(ctx context.Context, c *pgxpool.Conn, group []*pending) error {
	b := new(pgx.Batch)
	slots, keys := make([]int32, 0, len(group)), make([]memory.Key, 0, len(group))
	for _, p := range group {
		slots = append(slots, p.slot)
		for i := range p.ids {
			if p.ops[i] == int32(tokenstore.OpCheck) { // which locks nothing: all have the same one
				continue
			}
			keys = append(keys, memory.Key{Kind: tokenstore.Kind(p.kinds[i]), ID: p.ids[i]})
		}
	}
	slices.Sort(slots)
	slices.SortFunc(keys, func(a, b memory.Key) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID)) })
	kinds, ids := make([]string, 0, len(keys)), make([]string, 0, len(keys))
	for _, k := range slices.Compact(keys) {
		kinds, ids = append(kinds, string(k.Kind)), append(ids, k.ID)
	}
	b.Queue(s.aheadSQL, s.node, slots, kinds, ids)
	for _, p := range group {
		b.Queue(s.applySQL, s.arguments(p)...)
	}
	results := c.SendBatch(ctx, b)
	outcomes := make([]int, len(group))
	_, err := results.Exec()
	for i := 0; i < len(group) && err == nil; i++ {
		err = results.QueryRow().Scan(&outcomes[i])
	}
	if closing := results.Close(); err == nil { // the end of the transaction
		err = closing
	}
	if err != nil {
		return err
	}
	for i, p := range group {
		p.outcome = outcomes[i]
	}
	return nil
}

// applyAlone makes one Apply, unless its caller has gone away.
func (s *Store) applyAlone(p *pending) {
	p.outcome, p.err = ask(p.ctx, s, manner{lane: s.writing}, func(ctx context.Context, c *pgxpool.Conn) (outcome int, err error) {
		err = c.QueryRow(ctx, s.applySQL, s.arguments(p)...).Scan(&outcome)
		return outcome, err
	})
	s.applied(p)
}

// applied ends an Apply.
func (s *Store) applied(p *pending) {
	for i, id := range p.ids {
		if p.ops[i] == int32(tokenstore.OpCheck) {
			continue
		}
		s.forget(tokenstore.Row{Kind: tokenstore.Kind(p.kinds[i]), ID: id})
	}
	close(p.done)
	s.slots <- p.slot
}

func (s *Store) arguments(p *pending) []any {
	return []any{s.node, p.slot, p.sequence, p.ops, p.kinds, p.ids, p.versions, p.states, p.refs, p.due, p.deletions, p.seals}
}
