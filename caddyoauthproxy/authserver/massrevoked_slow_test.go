//go:build slow

package authserver_test

// massRevoked is how many grants a mass revocation ends in the tests.
const massRevoked = 10_000
