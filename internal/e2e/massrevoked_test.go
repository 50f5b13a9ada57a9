//go:build !slow

package e2e

// massRevoked is how many grants a mass revocation ends in the tests.
const massRevoked = 3_000
