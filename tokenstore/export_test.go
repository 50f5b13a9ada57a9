package tokenstore

// What the tests of this package use of its inside.
var (
	KeepJob = (*Vault).keepJob
	TakeJob = (*Vault).takeJob
)
