package bench

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// credentials are those of a client that was granted something.
type credentials struct {
	ClientID, Secret, Access, Refresh string
}

// grantsOfUser is how many grants each user has, each with an account of its own.
const grantsOfUser = 10

// fill stores so many grants, as a login of Alice made one, while Caddy rests, and returns credentials for one in so many of them.
func fill(b *testing.B, w *testenv.World, n, every int) (of []credentials) {
	b.Helper()
	bot := w.NewPlainBot(b)
	bot.Login(b, testenv.NewBrowser(testenv.Alice))
	w.Terminate()
	w.RestingVault(b, func(v *tokenstore.Vault) {
		found, err := v.Grants(b.Context(), tokenstore.GrantQuery{ClientID: bot.ID})
		if err != nil || len(found) != 1 {
			b.Fatalf("%d grants, %v", len(found), err)
		}
		account, err := v.Account(b.Context(), found[0].AccountID)
		if err != nil {
			b.Fatal(err)
		}
		f := &filler{b: b, v: v, signer: signer(b, v), issuer: w.URL, grant: found[0], account: account, now: v.Now(), random: rand.New(rand.NewPCG(1, 2))}
		var working sync.WaitGroup
		for range runtime.GOMAXPROCS(0) { // sealing takes most of the time
			working.Go(func() {
				for {
					writes, issued := f.batch(n, every)
					if len(writes) == 0 {
						return
					}
					if err := v.Commit(b.Context(), writes...); err != nil {
						b.Error(err)
						return
					}
					f.mu.Lock()
					of = append(of, issued...)
					f.mu.Unlock()
				}
			})
		}
		working.Wait()
		if b.Failed() {
			b.FailNow()
		}
		for i := range of {
			of[i].ClientID, of[i].Secret = bot.ID, bot.Secret
		}
	})
	w.Run()
	return of
}

type filler struct {
	b       *testing.B
	v       *tokenstore.Vault
	signer  jose.Signer
	issuer  string
	grant   *tokenstore.Grant
	account *tokenstore.Account
	now     time.Time

	mu     sync.Mutex
	random *rand.Rand
	made   int
}

// batch is what is stored next, of n grants in all, and the tokens of one in so many of them. It is empty in the end.
func (f *filler) batch(n, every int) (writes []tokenstore.Write, of []credentials) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range min(1000, n-f.made) {
		g, a, refresh := f.pair(f.made)
		writes = append(writes, tokenstore.Save(g), tokenstore.Save(a))
		if f.made%every == 0 {
			of = append(of, credentials{Access: f.access(g), Refresh: refresh})
		}
		f.made++
	}
	return writes, of
}

// pair is the grant of a number, its account, and its refresh token.
func (f *filler) pair(i int) (*tokenstore.Grant, *tokenstore.Account, string) {
	user := i / grantsOfUser
	g, a := *f.grant, *f.account
	g.Meta = tokenstore.Meta{ID: tokenstore.NewID(f.now.Add(time.Duration(i-2_000_000) * time.Second / 10)), DeleteAfter: f.now.AddDate(0, 6, 0)}
	a.Meta = tokenstore.Meta{ID: fmt.Sprintf("account-%07d", i), DeleteAfter: f.now.AddDate(0, 6, 0)}
	g.UserID, g.AccountID = fmt.Sprint("user-", user), a.ID
	g.User.Subject, g.User.Name, g.User.Login = fmt.Sprint(user), fmt.Sprint("Ada Number", user), fmt.Sprint("login", user)
	g.User.Email = fmt.Sprintf("user.%d@example-%d.test", user, user%40)
	g.Used = f.now // as any that is in use
	a.UserID, a.OwnerID = g.UserID, fmt.Sprint("owner-", user)
	a.RefreshToken = fmt.Sprintf("rt-%x%x", f.random.Uint64(), f.random.Uint64())

	var secret [32]byte
	for i := range 4 {
		binary.BigEndian.PutUint64(secret[8*i:], f.random.Uint64())
	}
	refresh := "gwr_" + base64.RawURLEncoding.EncodeToString(append([]byte{0, 0, 0, 1}, g.ID...)) + "." + base64.RawURLEncoding.EncodeToString(secret[:])
	g.Family = tokenstore.RefreshFamily{Generation: 1, Current: f.v.Hash("refresh_token", refresh), Rotated: f.now, JTI: fmt.Sprint("jti-", i)}
	return &g, &a, refresh
}

// access is an access token of a grant, as the gateway would issue it.
func (f *filler) access(g *tokenstore.Grant) string {
	claims, err := json.Marshal(map[string]any{
		"iss": f.issuer, "aud": g.Resource, "sub": g.UserID, "client_id": g.ClientID, "jti": g.Family.JTI, "sid": g.ID,
		"iat": f.now.Unix(), "exp": f.now.Add(time.Hour).Unix(),
	})
	if err != nil {
		f.b.Fatal(err)
	}
	signed, err := f.signer.Sign(claims)
	if err != nil {
		f.b.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		f.b.Fatal(err)
	}
	return token
}

// signer signs with the key that the gateway signs with.
func signer(b *testing.B, v *tokenstore.Vault) jose.Signer {
	b.Helper()
	keys, err := v.SigningKeys(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	newest := slices.MaxFunc(keys.Keys, func(a, b tokenstore.SigningKey) int { return a.Created.Compare(b.Created) })
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(newest.JWK); err != nil {
		b.Fatal(err)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(jwk.Algorithm), Key: jwk}, (&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		b.Fatal(err)
	}
	return s
}
