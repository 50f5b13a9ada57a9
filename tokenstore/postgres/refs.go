package postgres

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// listSQL is the query of a page. None says that nothing can be found.
func (s *Store) listSQL(kind tokenstore.Kind, q tokenstore.Query) (sql string, args []any, none bool) {
	if !selectable(kind, q.Refs) {
		return "", nil, true
	}
	args = []any{string(kind), after(q.After), pageSize(q.Limit)}
	if len(q.Refs) == 0 {
		return "SELECT " + columns + " FROM " + s.schema + ".rows WHERE kind = $1::text AND id > $2::text ORDER BY id LIMIT $3::integer", args, false
	}
	from, where, args := s.carrying(q.Refs, args)
	sql = "SELECT " + columns + " FROM (SELECT r0.id AS found FROM " + from + " WHERE " + where + " AND r0.id > $2::text ORDER BY r0.id LIMIT $3::integer) AS page JOIN " +
		s.schema + ".rows ON kind = $1::text AND id = found ORDER BY id"
	return sql, args, false
}

// countSQL is the query of Count.
func (s *Store) countSQL(kind tokenstore.Kind, refs []string) (sql string, args []any, none bool) {
	if !selectable(kind, refs) {
		return "", nil, true
	}
	args = []any{string(kind)}
	if len(refs) == 0 {
		return "SELECT count(*) FROM " + s.schema + ".rows WHERE kind = $1::text", args, false
	}
	from, where, args := s.carrying(refs, args)
	return "SELECT count(*) FROM " + from + " WHERE " + where, args, false
}

// carrying joins the lists of references, each of which has its ids in order.
func (s *Store) carrying(refs []string, args []any) (from, where string, _ []any) {
	refs = slices.Compact(slices.Sorted(slices.Values(refs)))
	tables, conditions := make([]string, 0, len(refs)), make([]string, 0, len(refs))
	for i, ref := range refs {
		args = append(args, ref)
		tables = append(tables, fmt.Sprintf("%s.refs AS r%d", s.schema, i))
		condition := fmt.Sprintf("r%d.kind = $1::text AND r%d.ref = $%d::text", i, i, len(args))
		if i > 0 {
			condition += fmt.Sprintf(" AND r%d.id = r0.id", i)
		}
		conditions = append(conditions, condition)
	}
	return strings.Join(tables, ", "), strings.Join(conditions, " AND "), args
}

// planned has a query planned for its arguments: which list of references is to be walked, and in which to look, depends on how many rows carry each.
func planned(c *pgxpool.Conn, args []any) []any {
	if pooled(c.Conn().Config()) {
		return args // it is there already
	}
	return append([]any{pgx.QueryExecModeCacheDescribe}, args...)
}

// selectable reports whether rows can carry the references at all.
func selectable(kind tokenstore.Kind, refs []string) bool {
	return key(string(kind)) && !slices.ContainsFunc(refs, func(ref string) bool { return !key(ref) })
}
