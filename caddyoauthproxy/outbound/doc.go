// Package outbound makes the HTTP clients for every request that the gateway sends by itself. There are three: New for addresses from
// the configuration, NewGuarded for addresses that a stranger has named, and NewLike for addresses that a server of the configuration has named.
package outbound
