package tokenstore

import (
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"
)

// fillAll gives every field of a value another value than zero.
func fillAll(t *testing.T, v reflect.Value, n *int) {
	t.Helper()
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text ", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(int64(*n) << 20)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(math.MaxUint32 - uint64(*n))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 3, 8))
		for i := range v.Len() {
			fillAll(t, v.Index(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillAll(t, v.Elem(), n)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 11, 21, 12, 0, *n, *n, time.UTC)))
			return
		}
		for _, field := range v.Fields() {
			fillAll(t, field, n)
		}
	default:
		t.Fatalf("a %s: teach flat to keep it, and this test to make one", v.Type())
	}
}

func TestRecordsAreRememberedWithEveryField(t *testing.T) {
	t.Parallel()
	for _, empty := range []flattened{new(Grant), new(Account), new(APIKey)} {
		fresh := func() flattened {
			r, _ := reflect.TypeAssert[flattened](reflect.New(reflect.TypeOf(empty).Elem()))
			return r
		}
		full, n := fresh(), 0
		fillAll(t, reflect.ValueOf(full).Elem(), &n)
		old := fresh()
		old.meta().DeleteAfter = time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)
		late := fresh()
		late.meta().DeleteAfter = time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
		for what, r := range map[string]flattened{"empty": empty, "full": full, "old": old, "late": late} {
			got := fresh()
			new(flat).unflatten(flatten(r), got)
			if !reflect.DeepEqual(got, r) {
				t.Errorf("%s:\n got %+v\nwant %+v", what, got, r)
			}
		}
	}
}

func TestListsThatAreEmptyStayWhatTheyAre(t *testing.T) {
	t.Parallel()
	k, got := &APIKey{Proxies: []string{}}, new(APIKey)
	if new(flat).unflatten(flatten(k), got); !reflect.DeepEqual(got, k) {
		t.Errorf("got %#v, want %#v", got, k)
	}
}

func TestRememberedListsAreKeptApart(t *testing.T) {
	t.Parallel()
	g := &Grant{Scopes: []string{"one", "two"}, Providers: []string{"okta"}, User: User{Groups: []string{}}}
	var got Grant
	new(flat).unflatten(flatten(g), &got)
	_ = append(got.Scopes, "more") //nolint:gocritic // which must not reach the next list
	if !reflect.DeepEqual(&got, g) {
		t.Errorf("got %+v, want %+v", got, g)
	}
}
