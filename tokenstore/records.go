package tokenstore

import (
	"cmp"
	"encoding/json"
	"time"
)

// Meta is the part that every record shares. Fill ID and DeleteAfter; the vault keeps Version.
type Meta struct {
	// ID is the row's key. Records found by a secret (login state, code) use the
	// secret's keyed hash, so that the secret itself is nowhere in the store.
	ID string `json:"-"`

	// Version is zero for a record that was never saved; Commit sets it.
	Version uint64 `json:"-"`

	// DeleteAfter is when the clean-up may delete the record; zero keeps it for ever.
	DeleteAfter time.Time `json:"-"`
}

// User is who logged in, as the provider told it.
type User struct {
	// Provider is the configured name of the provider that vouches for the user.
	Provider string `json:"provider"`

	// Issuer and Subject identify the user at the provider for ever. Nothing else does.
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`

	// Email, Login and Name are for people to read. They may change and may repeat.
	Email         string `json:"email,omitempty"`
	EmailVerified bool   `json:"email_verified,omitempty"`
	Login         string `json:"login,omitempty"`
	Name          string `json:"name,omitempty"`

	// Groups and Org are the user's groups and organisation at the provider, where it tells them, as of the login.
	Groups []string `json:"groups,omitempty"`
	Org    string   `json:"org,omitempty"`
}

// VerifiedEmail is the user's e-mail address where the provider vouches for it. At many providers users
// can enter any other, which then says nothing about who they are.
func (u User) VerifiedEmail() string {
	if !u.EmailVerified {
		return ""
	}
	return u.Email
}

// Label is how the user is shown to people: verified e-mail, else login, else subject.
func (u User) Label() string { return cmp.Or(u.VerifiedEmail(), u.Login, u.Subject) }

// Client is a chatbot that registered itself (RFC 7591). Clients of the configuration and of metadata documents have
// the same form and are not stored.
type Client struct {
	Meta

	// Proxy is the proxy at whose pinned endpoint the client registered, or empty.
	Proxy string `json:"proxy,omitempty"`

	Name            string   `json:"name,omitempty"`
	URI             string   `json:"uri,omitempty"`
	LogoURI         string   `json:"logo_uri,omitempty"`
	ApplicationType string   `json:"application_type,omitempty"`
	RedirectURIs    []string `json:"redirect_uris"`
	GrantTypes      []string `json:"grant_types"`
	ResponseTypes   []string `json:"response_types"`
	Scope           string   `json:"scope,omitempty"`

	// AuthMethod is the token endpoint authentication: none, client_secret_post, client_secret_basic or private_key_jwt.
	AuthMethod string `json:"auth_method"`

	// SecretHash is the keyed hash of the client secret, empty for clients without one.
	SecretHash string `json:"secret_hash,omitempty"`

	// JWKS is the client's key set (RFC 7517), or JWKSURI where it is, for private_key_jwt.
	JWKS    json.RawMessage `json:"jwks,omitempty"`
	JWKSURI string          `json:"jwks_uri,omitempty"`

	// ManagementHash is the keyed hash of the registration access token (RFC 7592).
	ManagementHash string `json:"management_hash,omitempty"`

	Created time.Time `json:"created"`

	// Used is when the client last got a token, to within a day; zero while it never did. Address is
	// the keyed hash of the network address that it registered from, kept only until then.
	Used    time.Time `json:"used,omitzero"`
	Address string    `json:"address,omitempty"`
}

// AuthRequest is a checked authorization request. It is fixed when the consent
// page is shown and carried unchanged through the login; nothing is read from a query again.
type AuthRequest struct {
	// TransactionID ties the consent page, its answer and the login together.
	TransactionID string `json:"transaction_id"`

	ClientID      string   `json:"client_id"`
	RedirectURI   string   `json:"redirect_uri"`
	State         string   `json:"state,omitempty"`
	CodeChallenge string   `json:"code_challenge"`
	PlainPKCE     bool     `json:"plain_pkce,omitempty"` // the challenge is the verifier itself
	Scopes        []string `json:"scopes,omitempty"`
	Proxy         string   `json:"proxy"`
	Resource      string   `json:"resource"`

	// Asked are the scopes that the user was told the provider will be asked for; nil where they were told of none.
	Asked []string `json:"asked"`

	// Providers are the identities of the providers that the user was told of.
	Providers []string `json:"providers,omitempty"`

	// Flow says who asked: a client when empty, else FlowSession, FlowConnect or FlowSignIn.
	Flow Flow `json:"flow,omitempty"`

	// Consent is the id of the event of the user's consent, once there is one.
	Consent string `json:"consent,omitempty"`

	// ClientHash is the keyed hash of what makes the client the one that the user was shown: its
	// name, redirect URIs and keys.
	ClientHash string `json:"client_hash,omitempty"`

	// ReturnTo is the page of the gateway's that a sign-in leads to, and Address the network address that it began from.
	ReturnTo string `json:"return_to,omitempty"`
	Address  string `json:"address,omitempty"`
}

// Flow is a way to log in without an OAuth client.
type Flow string

// The flows beside that of OAuth clients.
const (
	// FlowSession is a script that asks for a session token of a provider.
	FlowSession Flow = "session"

	// FlowConnect is a user who connects a proxy from the browser.
	FlowConnect Flow = "connect"

	// FlowSignIn is a user, or an operator, who signs in to the gateway's own pages. It ends with a SignIn, and without a grant.
	FlowSignIn Flow = "sign_in"
)

// Login is a user's trip to the provider, from pressing Allow to the callback.
// Its ID is the keyed hash of the state parameter.
type Login struct {
	Meta

	Request  AuthRequest `json:"request"`
	Provider string      `json:"provider"`

	// User is who logged in, once that is known and another provider remains to be asked for tokens; Next is the login that goes on there.
	// LoginIdentity tells the provider where they logged in from another one of its name.
	User          *User  `json:"user,omitempty"`
	LoginIdentity string `json:"login_identity,omitempty"`
	Next          string `json:"next,omitempty"`

	// Agreed is when the user said yes to the request, which a remembered consent may have been long before the login, or when a script began it.
	Agreed time.Time `json:"agreed,omitzero"`

	// Browser is the keyed hash of the cookie that only the browser which pressed Allow holds.
	Browser string `json:"browser"`

	// Remember says that the consent is to be stored when the login has shown who gave it. When a stored consent took the
	// place of the page, UserID is whose it was, and nobody else may finish the login.
	Remember bool   `json:"remember,omitempty"`
	UserID   string `json:"user_id,omitempty"`

	// Identity tells the provider from another one that is given its name meanwhile.
	Identity string `json:"identity,omitempty"`

	// Binding is what the login began with; its code goes nowhere else.
	Binding Binding `json:"binding,omitzero"`

	// Nonce and Verifier are the OIDC nonce and PKCE verifier of the provider leg.
	Nonce    string `json:"nonce"`
	Verifier string `json:"verifier"`

	Expires time.Time `json:"expires"`

	// Claimed is when a callback began to redeem the provider's code; zero before. A
	// login is claimed once, on one node. Answer is the keyed hash of that code: nobody
	// who brings another is told how the login ended.
	Claimed time.Time `json:"claimed,omitzero"`
	Answer  string    `json:"answer,omitempty"`

	// Claim is a random id of who claimed it. A claim that is old and led to nothing is taken over.
	Claim string `json:"claim,omitempty"`

	// Finished is when the callback ended the login; zero while it is open.
	Finished time.Time `json:"finished,omitzero"`

	// GrantID is the grant that the login made, and Error the OAuth error code that it ended with instead.
	GrantID string `json:"grant_id,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Binding is the authorization server, the gateway's client there and the resource that a login or tokens are for, where the gateway finds these out
// by itself. It is zero elsewhere.
type Binding struct {
	Issuer   string `json:"issuer,omitempty"`
	ClientID string `json:"client_id,omitempty"`
	Resource string `json:"resource,omitempty"`
}

// Code is an authorization code. Its ID is the keyed hash of the code.
type Code struct {
	Meta

	GrantID       string    `json:"grant_id"`
	ClientID      string    `json:"client_id"`
	RedirectURI   string    `json:"redirect_uri"`
	CodeChallenge string    `json:"code_challenge"`
	PlainPKCE     bool      `json:"plain_pkce,omitempty"`
	Resource      string    `json:"resource"`
	Expires       time.Time `json:"expires"`

	// Used is when the code was redeemed; zero before.
	Used time.Time `json:"used,omitzero"`
}

// State is where a grant or an account stands.
type State string

// The states of grants and accounts.
const (
	StateActive State = "active"

	// StateRefreshing says that a node holds the account's lease and talks to the provider.
	StateRefreshing State = "refreshing"

	// StateNeedsReauth says that the provider refused the refresh token for good: the user must log in again.
	StateNeedsReauth State = "needs_reauth"

	StateRevoked State = "revoked"
)

// Grant is what a user allowed a client to do on a proxy: the unit of listing and revocation.
type Grant struct {
	Meta

	State     State     `json:"state"`
	ClientID  string    `json:"client_id"`
	Client    string    `json:"client"`
	Proxy     string    `json:"proxy"`
	Resource  string    `json:"resource"`
	Scopes    []string  `json:"scopes,omitempty"`
	UserID    string    `json:"user_id"`
	User      User      `json:"user"`
	AccountID string    `json:"account_id"`
	Created   time.Time `json:"created"`

	// Agreed is when the user said yes to what the grant came out of; zero for grants without a user, and for those of before it was kept.
	Agreed time.Time `json:"agreed,omitzero"`

	// Providers are those that the grant was made with: where the user logged in, and where the account is. The grant is good
	// while its proxy has the same. Empty for grants without a user, and for those of before it was kept.
	Providers []string `json:"providers,omitempty"`

	// RedirectURI and ClientHash are those of the request that the user agreed to.
	RedirectURI string `json:"redirect_uri,omitempty"`
	ClientHash  string `json:"client_hash,omitempty"`

	// Consent is the id of the event of the consent that the grant goes back to; empty for grants without a user, and for those of before it was kept.
	Consent string `json:"consent,omitempty"`

	// Expires is when the grant ends unless it is refreshed before: the code's
	// life at first, then the refresh token's idle time. Ends is when it ends in any case.
	Expires time.Time `json:"expires"`
	Ends    time.Time `json:"ends"`

	Family RefreshFamily `json:"family"`

	// Reason says in words why the grant is not active any more. Order is the id of the revocation order that ended it; its reason is for operators alone.
	Reason string `json:"reason,omitempty"`
	Order  string `json:"order,omitempty"`

	// Provider is the configured name of the provider of the account, which need not be the one where the user logged in. Empty for grants without an account.
	Provider string `json:"provider,omitempty"`

	// Used is when the grant was last used, to within an hour; zero while it never was.
	Used time.Time `json:"used,omitzero"`

	// Broken says in words why the account must be connected again; empty while it need not.
	Broken string `json:"broken,omitempty"`

	// UpstreamEnds is when the account's token ends, where there is none to renew it with; zero where there is, and where the provider does not say.
	UpstreamEnds time.Time `json:"upstream_ends,omitzero"`
}

// HasUser reports whether somebody is behind the grant whom a provider vouches for. A client that acts for itself has nobody.
func (g *Grant) HasUser() bool { return g.User.Provider != "" }

// RefreshFamily is the chain of refresh tokens of one grant. Only the newest is valid; those before it are answered
// with it for a short grace after they were replaced, because answers get lost. The tokens themselves are not stored.
type RefreshFamily struct {
	// Generation counts the tokens issued; zero means none yet.
	Generation uint32 `json:"generation,omitempty"`

	// Current is the keyed hash of the newest token.
	Current string `json:"current,omitempty"`

	// Replaced is when the tokens before it were replaced, the latest first, as far as that is within the grace.
	Replaced []time.Time `json:"replaced,omitempty"`

	// Rotated is when Current was issued.
	Rotated time.Time `json:"rotated,omitzero"`

	// JTI is the id of the access token issued together with Current.
	JTI string `json:"jti,omitempty"`
}

// Account is one user's upstream tokens at one provider: the unit of refresh.
type Account struct {
	Meta

	State    State  `json:"state"`
	Provider string `json:"provider"`
	UserID   string `json:"user_id"`

	// Identity tells the provider from another one that is given its name later; empty for accounts that are older than this.
	Identity string `json:"identity,omitempty"`

	// OwnerID is who the tokens' owner is at the provider, the same for all users of the gateway who have connected that account: a keyed hash.
	OwnerID string `json:"owner_id,omitempty"`

	// Unstored says that the tokens are not here, but in the memory of the process that got them.
	Unstored bool `json:"unstored,omitempty"`

	// Binding is what the tokens belong to.
	Binding Binding `json:"binding,omitzero"`

	// Owner is who the tokens' owner is at the provider, in words, where users log in elsewhere.
	Owner string `json:"owner,omitempty"`

	AccessToken  string   `json:"access_token"`
	RefreshToken string   `json:"refresh_token,omitempty"`
	IDToken      string   `json:"id_token,omitempty"`
	TokenType    string   `json:"token_type,omitempty"`
	Scopes       []string `json:"scopes,omitempty"`

	// Obtained is when the provider was asked for the access token, or gave it at a login, by the vault's clock.
	Obtained time.Time `json:"obtained"`

	// Expires is when the access token ends; zero when the provider does not say,
	// and then it is used until the upstream refuses it.
	Expires time.Time `json:"expires,omitzero"`

	// Forced is when the last refresh was forced by an upstream's 401.
	Forced time.Time `json:"forced,omitzero"`

	// Lease is set while the state is refreshing.
	Lease Lease `json:"lease,omitzero"`

	// Reason says in words why the account is not active any more.
	Reason string `json:"reason,omitempty"`

	// Revocation is what is still to be ended at the provider after the account was revoked.
	Revocation *Revocation `json:"revocation,omitempty"`
}

// Revocation is tokens that the provider has not been told to end yet.
type Revocation struct {
	AccessToken  string `json:"access_token,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`

	// Begun is when the account was revoked, Attempts how often the provider was asked since, and Next when it is asked again.
	Begun    time.Time `json:"begun"`
	Attempts int       `json:"attempts,omitempty"`
	Next     time.Time `json:"next"`
}

// Lease marks an account whose refresh token is being spent. It is written
// before the provider is asked, so that a crash in between is known afterwards.
type Lease struct {
	// Owner is a random id of the holder. It is empty where he has given the lease up without knowing whether the refresh token is spent.
	Owner string `json:"owner"`

	// Until is when others may take the lease over. Its holder puts that off while the provider has not answered.
	Until time.Time `json:"until"`

	// Replayed says that the holder before died and its refresh token is being tried
	// a second and last time.
	Replayed bool `json:"replayed,omitempty"`
}

// Consent is a user's remembered agreement. Its ID is the keyed hash of everything that it covers.
type Consent struct {
	Meta

	UserID      string    `json:"user_id"`
	ClientID    string    `json:"client_id"`
	Client      string    `json:"client"`
	RedirectURI string    `json:"redirect_uri"`
	Proxy       string    `json:"proxy"`
	Resource    string    `json:"resource"`
	Provider    string    `json:"provider"`
	Scopes      []string  `json:"scopes,omitempty"`
	Given       time.Time `json:"given"`

	// Providers are the identities of the providers that the user was told of; empty for consents of before they were kept.
	Providers []string `json:"providers,omitempty"`

	// Event is the id of the event of its being given.
	Event string `json:"event,omitempty"`
}

// Assertion marks a client assertion (RFC 7523) as used. Its ID is the keyed hash of the client and the assertion's jti; it is
// kept for as long as the assertion would be valid.
type Assertion struct {
	Meta
	ClientID string `json:"client_id"`
}

// Registration is what an authorization server gave the gateway when it registered itself there (RFC 7591). Its ID is the keyed hash of the
// server's issuer and the gateway's redirect URI, so that credentials of one are never used at another.
type Registration struct {
	Meta

	Issuer string `json:"issuer"`

	// Clients are the gateway's clients there, the newest first. Older ones are kept for the accounts that they got. There is none while the first is
	// being registered.
	Clients []RegisteredClient `json:"clients"`

	// Registering is set while a process registers one more.
	Registering Lease `json:"registering,omitzero"`
}

// RegisteredClient is the gateway as one client of an authorization server.
type RegisteredClient struct {
	ID         string    `json:"client_id"`
	Secret     string    `json:"client_secret,omitempty"`
	AuthMethod string    `json:"token_endpoint_auth_method"`
	Created    time.Time `json:"created"`

	// Expires is when the secret ends; zero for never.
	Expires time.Time `json:"expires,omitzero"`

	// Refused is since when the server calls the client unknown; zero while it does not.
	Refused time.Time `json:"refused,omitzero"`
}

// SigningKeys is the gateway's set of access-token signing keys. There is one
// such record, so nodes that start together end up with the same keys.
type SigningKeys struct {
	Meta
	Keys []SigningKey `json:"keys"`
}

// SigningKey is one private key as a JWK (RFC 7517).
type SigningKey struct {
	// ID is the key's RFC 7638 thumbprint, used as kid.
	ID        string    `json:"id"`
	Algorithm string    `json:"algorithm"`
	JWK       []byte    `json:"jwk"`
	Created   time.Time `json:"created"`

	// Signs is when the key begins to sign; until then it is only published, so that everybody knows it in time.
	Signs time.Time `json:"signs,omitzero"`
}
