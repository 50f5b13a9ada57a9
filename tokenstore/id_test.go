package tokenstore_test

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestIDsSortNewestFirst(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[2-7A-Z]{26}$`)
	var ids []string
	for _, at := range []time.Time{
		{}, time.UnixMilli(-5), time.UnixMilli(1), now.Add(-10 * 365 * 24 * time.Hour), now.Add(-time.Millisecond), now,
		now.Add(time.Millisecond), now.Add(time.Hour), now.AddDate(1000, 0, 0), time.Date(40_000, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		id := tokenstore.NewID(at)
		if !form.MatchString(id) {
			t.Errorf("id of %s is %q", at, id)
		}
		if len(ids) > 1 && id >= ids[len(ids)-1] { // the first two are of one time: none is before 1970
			t.Errorf("id of %s is %q, not before %q", at, id, ids[len(ids)-1])
		}
		ids = append(ids, id)
	}
}

func TestIDsOfOneMomentDiffer(t *testing.T) {
	t.Parallel()
	var ids []string
	for range 10_000 {
		ids = append(ids, tokenstore.NewID(now))
	}
	slices.Sort(ids)
	if n := len(slices.Compact(ids)); n != 10_000 {
		t.Errorf("%d of 10000 ids differ", n)
	}
}
