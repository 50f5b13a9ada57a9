// The OpenID Connect provider of npm's oidc-provider, with its own login and consent pages, one client, and everything in memory. It
// listens on loopback alone, and ends with its standard input.
import { generateKeyPairSync } from "node:crypto";
import { Provider } from "oidc-provider";

const { Port, Issuer, ClientID, ClientSecret, RedirectURI, TokenSeconds, Users, Strict } = JSON.parse(process.argv[2]);

const key = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });
const user = (name) => Users.find((u) => u.Name === name);

const provider = new Provider(Issuer, {
  clients: [{
    client_id: ClientID,
    client_secret: ClientSecret,
    redirect_uris: [RedirectURI],
    grant_types: ["authorization_code", "refresh_token"],
  }],
  jwks: { keys: [{ ...key, use: "sig", alg: "RS256", kid: "1" }] },
  cookies: { keys: ["a key for cookies of a test"] },
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name", "preferred_username"] },
  findAccount: (_ctx, name) => user(name) && {
    accountId: name,
    claims: () => ({
      sub: name, name: user(name).FullName, preferred_username: name, email: user(name).Email, email_verified: true,
    }),
  },
  features: { devInteractions: { enabled: true }, revocation: { enabled: true } },
  // Each refresh token is used once. One that comes a second time ends the whole grant: that is not ours to configure.
  rotateRefreshToken: true,
  // Its own rule, which the strict one keeps: only with offline_access, which it only grants when the user has been asked.
  ...(Strict ? {} : { issueRefreshToken: () => true }),
  clockTolerance: 0, // a token ends when it says so, and not 15 seconds later
  ttl: { AccessToken: TokenSeconds, IdToken: 3600, RefreshToken: 3600, Interaction: 3600, Session: 3600, Grant: 3600 },
});

provider.listen(Port, "127.0.0.1");
process.stdin.resume().on("end", () => process.exit(0));
