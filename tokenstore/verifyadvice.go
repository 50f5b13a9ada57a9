package tokenstore

// advice is what a fault means, and what to do.
func (f Fault) advice() string {
	switch f.Class {
	case FaultSealed, FaultUnreadable:
		if f.Kind == "" {
			return adviceStorage
		}
		return "It was changed, moved or cut behind the gateway's back, or the disk has damaged it; nobody can use it. " + adviceOfKind(f.Kind)
	case FaultIndex:
		return "The row is whole, but lists, revocations or the clean-up may pass it by, or stumble over what is not there. " +
			"The indexes are made anew in the copy when the vault is moved to another store with caddy oauth-proxy migrate, or restored there from a backup."
	case FaultCount:
		return "The rows are whole, and nothing is decided by such a number; but metrics and pages tell a wrong one. caddy oauth-proxy compact counts the rows anew, as does the copy that is made when the vault is moved or restored."
	case FaultStorage:
		return adviceStorage
	case FaultAudit:
		return "Somebody has edited the audit trail behind the gateway's back, or the disk has damaged it: what it says of that time is not to be relied on. " +
			"Hold it against the log, or an export of it, with caddy oauth-proxy verify-audit --anchor."
	case FaultReference:
		return "A crash or the clean-up may have left it so. A grant without its account is refused, and its user connects again; it ends by itself in its time."
	default:
		return ""
	}
}

const adviceStorage = "What is stored is damaged underneath: the disk, or somebody who wrote to it. Stop the gateway, keep a copy of the damaged storage, look at the disk, and restore the vault from a backup."

// adviceOfKind is what to do about a record of a kind that is lost.
func adviceOfKind(kind Kind) string {
	switch kind {
	case KindKeyring:
		return "Without it nothing in the vault opens after the next start: restore the vault from a backup now."
	case KindSigningKeys:
		return "No access token can be signed or checked after the next start: restore the vault from a backup."
	case KindGrant, KindAccount:
		return "Its user connects again; or restore the vault from a backup that has it."
	case KindClient, KindRegistration:
		return "It registers again when it is used next; or restore the vault from a backup that has it."
	case KindAPIKey:
		return "Revoke it, and make another; or restore the vault from a backup that has it."
	case KindConsent:
		return "The user is asked again."
	case KindLogin, KindCode, KindAssertion, KindSignIn:
		return "Whoever it belongs to logs in again, and the clean-up deletes it in its time."
	case KindRevocationOrder:
		return "What it was to end may live on: give the order again, with caddy oauth-proxy revoke."
	case KindJob:
		return "The work of this name is not done any more: restore the vault from a backup."
	default: // of the audit trail
		return "What happened then is not in the audit trail any more: the log has it."
	}
}
