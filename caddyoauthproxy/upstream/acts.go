package upstream

import "time"

// Acts are told of what happens to accounts, for metrics. They are called by many at a time, and must not take long. One that is not given is not called.
type Acts struct {
	// Refreshed is told of each request for a new token: which provider was asked, how long it took with all repetitions, and the
	// failure's class, empty for success.
	Refreshed func(provider string, failure Class, took time.Duration)

	// Waited is told of each call that waited for a refresh which another call had begun, and for how long.
	Waited func(provider string, took time.Duration)

	// Broke is told of each account whose user must connect it again.
	Broke func(provider string)

	// Revoked is told of each attempt to have a provider end tokens, and of its failure's class, empty for success.
	Revoked func(provider string, failure Class)

	// GaveUp is told of each account whose tokens the provider could not be told to end, for days.
	GaveUp func(provider string)
}

func (a *Acts) setDefaults() {
	if a.Refreshed == nil {
		a.Refreshed = func(string, Class, time.Duration) {}
	}
	if a.Waited == nil {
		a.Waited = func(string, time.Duration) {}
	}
	if a.Broke == nil {
		a.Broke = func(string) {}
	}
	if a.Revoked == nil {
		a.Revoked = func(string, Class) {}
	}
	if a.GaveUp == nil {
		a.GaveUp = func(string) {}
	}
}
