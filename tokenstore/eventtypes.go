package tokenstore

// The types of events. docs/audit.md says which fields each has.
const (
	EventClientRegistered = "client.registered"
	EventClientUpdated    = "client.updated"
	EventClientDeleted    = "client.deleted"

	EventConsentGiven      = "consent.given"
	EventConsentRefused    = "consent.refused"
	EventConsentRemembered = "consent.remembered" // a remembered one took the place of the page, or the operator asks for none

	EventLoginFinished = "login.finished"
	EventLoginFailed   = "login.failed"

	EventTokenIssued  = "token.issued"
	EventTokenRefused = "token.refused"

	EventCodeReplayed    = "code.replayed"
	EventRefreshReplayed = "refresh.replayed"

	EventGrantEnded = "grant.ended"

	EventRevocationOrdered = "revocation.ordered"
	EventRevocationDone    = "revocation.done" // every grant that it means is ended in its own row

	EventSessionIssued    = "session.issued"
	EventSessionRefreshed = "session.refreshed"
	EventSessionEnded     = "session.ended"

	EventSignInFinished = "sign_in.finished" // to the gateway's own pages
	EventSignInEnded    = "sign_in.ended"

	EventUpstreamRefreshed     = "upstream.refreshed"
	EventUpstreamRefused       = "upstream.refused" // for good: the user must log in again
	EventUpstreamLost          = "upstream.lost"    // the outcome of a refresh is unknown, and the account is given up
	EventUpstreamRevoked       = "upstream.revoked"
	EventUpstreamRevokeGivenUp = "upstream.revoke_given_up"

	EventAPIKeyCreated = "api_key.created"
	EventAPIKeyRevoked = "api_key.revoked"

	EventSigningKeyRotated = "signing_key.rotated"
	EventVaultTampered     = "vault.tampered"
	EventVaultMove         = "vault.move"  // to another store: begun, and how it ended
	EventVaultRekey        = "vault.rekey" // sealed anew by new keys: begun, held up by damage, and done
	EventConfigLoaded      = "config.loaded"
	EventConfigApplied     = "config.applied" // by an operator, from the configuration assistant
	EventAuditDropped      = "audit.dropped"
)

// EventTypes lists every type of events.
func EventTypes() []string {
	return []string{
		EventClientRegistered, EventClientUpdated, EventClientDeleted,
		EventConsentGiven, EventConsentRefused, EventConsentRemembered,
		EventLoginFinished, EventLoginFailed,
		EventTokenIssued, EventTokenRefused,
		EventCodeReplayed, EventRefreshReplayed,
		EventGrantEnded, EventRevocationOrdered, EventRevocationDone,
		EventSessionIssued, EventSessionRefreshed, EventSessionEnded,
		EventSignInFinished, EventSignInEnded,
		EventUpstreamRefreshed, EventUpstreamRefused, EventUpstreamLost, EventUpstreamRevoked, EventUpstreamRevokeGivenUp,
		EventAPIKeyCreated, EventAPIKeyRevoked,
		EventSigningKeyRotated, EventVaultTampered, EventVaultMove, EventVaultRekey, EventConfigLoaded, EventConfigApplied, EventAuditDropped,
	}
}
