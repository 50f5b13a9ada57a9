package tokenstore

import (
	"encoding/binary"
	"time"
)

// What is remembered of a record is one text without anything that points anywhere: the garbage collector passes over it, where it would look at a record of two dozen texts
// each time, and there are tens of thousands. Whoever recalls the record has a copy made, whose texts are parts of that one.

// flattened is a record that can be remembered so. Each calls f with every field, in the same order each time.
type flattened interface {
	Record
	each(f *flat)
}

// flat writes the fields of a record one after another, or reads them: first all numbers, the lengths of texts among them, and then all texts. To make a copy
// touches the numbers alone, which are few bytes; the texts are perhaps in no cache of the processor.
type flat struct {
	reading bool
	written []byte // numbers that were written
	texts   []byte // texts that were
	numbers string // to be read
	at      int    // how far they are
	rest    string // texts still to be read

	// listed is how many texts there are in lists, and lists the room for those that are read.
	listed uint64
	lists  []string
}

// flatten writes a record.
func flatten(r flattened) string {
	var f flat
	r.each(&f)
	all := make([]byte, 0, 2*binary.MaxVarintLen16+len(f.written)+len(f.texts))
	all = binary.AppendUvarint(binary.AppendUvarint(all, uint64(len(f.written))), f.listed)
	return string(append(append(all, f.written...), f.texts...))
}

// unflatten reads what flatten has written into a record that is empty. f is what is needed for it.
func (f *flat) unflatten(in string, r flattened) {
	*f = flat{reading: true, numbers: in}
	length := f.number(0)
	if listed := f.number(0); listed > 0 {
		f.lists = make([]string, 0, listed)
	}
	numbers := in[f.at:]
	f.numbers, f.at, f.rest = numbers[:length], 0, numbers[length:]
	r.each(f)
}

// number writes a number and returns it, or reads one.
func (f *flat) number(n uint64) uint64 {
	if !f.reading {
		f.written = binary.AppendUvarint(f.written, n)
		return n
	}
	n = 0
	for shift := 0; ; shift += 7 {
		c := f.numbers[f.at]
		f.at++
		if n |= uint64(c&0x7f) << shift; c < 0x80 {
			return n
		}
	}
}

func (f *flat) flag(b bool) bool {
	n := uint64(0)
	if b {
		n = 1
	}
	return f.number(n) == 1
}

func (f *flat) text(text *string) {
	n := f.number(uint64(len(*text)))
	if f.reading {
		*text, f.rest = f.rest[:n], f.rest[n:]
	} else {
		f.texts = append(f.texts, *text...)
	}
}

// list is a list of texts, which is nil or not as it was. It has no room for more, so that whoever appends to one list does not write into the next.
func (f *flat) list(list *[]string) {
	n := uint64(0)
	if *list != nil {
		n = 1 + uint64(len(*list))
	}
	if n = f.number(n); n == 0 {
		return
	}
	switch {
	case f.reading && n == 1:
		*list = []string{}
	case f.reading:
		start := len(f.lists)
		f.lists = f.lists[:start+int(n)-1] //nolint:gosec // it is the length of one
		*list = f.lists[start:len(f.lists):len(f.lists)]
	}
	f.listed += n - 1
	for i := range *list {
		f.text(&(*list)[i])
	}
}

// time is a time, in UTC.
func (f *flat) time(t *time.Time) {
	if !f.flag(!t.IsZero()) {
		return
	}
	seconds, nanoseconds := f.number(uint64(t.Unix())), f.number(uint64(t.Nanosecond())) //nolint:gosec // they are read back as they were
	if f.reading {
		*t = time.Unix(int64(seconds), int64(nanoseconds)).UTC() //nolint:gosec // they were that
	}
}

func (m *Meta) each(f *flat) {
	f.text(&m.ID)
	m.Version = f.number(m.Version)
	f.time(&m.DeleteAfter)
}

func (g *Grant) each(f *flat) {
	g.Meta.each(f)
	f.text((*string)(&g.State))
	for _, text := range [...]*string{
		&g.ClientID, &g.Client, &g.Proxy, &g.Resource, &g.UserID, &g.AccountID, &g.RedirectURI, &g.ClientHash, &g.Consent,
		&g.Reason, &g.Order, &g.Provider, &g.Broken, &g.Family.Current, &g.Family.JTI,
	} {
		f.text(text)
	}
	f.list(&g.Scopes)
	f.list(&g.Providers)
	g.User.each(f)
	for _, t := range [...]*time.Time{&g.Created, &g.Agreed, &g.Expires, &g.Ends, &g.Used, &g.UpstreamEnds, &g.Family.Rotated} {
		f.time(t)
	}
	g.Family.Generation = uint32(f.number(uint64(g.Family.Generation))) //nolint:gosec // it was one
	replaced := f.number(uint64(len(g.Family.Replaced)))
	if f.reading && replaced > 0 {
		g.Family.Replaced = make([]time.Time, replaced)
	}
	for i := range replaced {
		f.time(&g.Family.Replaced[i])
	}
}

func (u *User) each(f *flat) {
	for _, text := range [...]*string{&u.Provider, &u.Issuer, &u.Subject, &u.Email, &u.Login, &u.Name, &u.Org} {
		f.text(text)
	}
	u.EmailVerified = f.flag(u.EmailVerified)
	f.list(&u.Groups)
}

func (a *Account) each(f *flat) {
	a.Meta.each(f)
	f.text((*string)(&a.State))
	for _, text := range [...]*string{
		&a.Provider, &a.UserID, &a.Identity, &a.OwnerID, &a.Binding.Issuer, &a.Binding.ClientID, &a.Binding.Resource, &a.Owner,
		&a.AccessToken, &a.RefreshToken, &a.IDToken, &a.TokenType, &a.Lease.Owner, &a.Reason,
	} {
		f.text(text)
	}
	f.list(&a.Scopes)
	for _, t := range [...]*time.Time{&a.Obtained, &a.Expires, &a.Forced, &a.Lease.Until} {
		f.time(t)
	}
	a.Unstored = f.flag(a.Unstored)
	a.Lease.Replayed = f.flag(a.Lease.Replayed)
	if !f.flag(a.Revocation != nil) {
		return
	}
	if f.reading {
		a.Revocation = new(Revocation)
	}
	f.text(&a.Revocation.AccessToken)
	f.text(&a.Revocation.RefreshToken)
	f.time(&a.Revocation.Begun)
	a.Revocation.Attempts = int(f.number(uint64(a.Revocation.Attempts))) //nolint:gosec // it was one
	f.time(&a.Revocation.Next)
}

func (k *APIKey) each(f *flat) {
	k.Meta.each(f)
	f.text(&k.Name)
	f.text(&k.Hash)
	f.list(&k.Proxies)
	f.list(&k.Scopes)
	for _, t := range [...]*time.Time{&k.Created, &k.Expires, &k.Used, &k.Revoked} {
		f.time(t)
	}
}
