// Package outbound makes the HTTP clients for every request that the gateway sends by itself. There are two: New for addresses from
// the configuration, and NewGuarded for addresses that a stranger has named.
package outbound
