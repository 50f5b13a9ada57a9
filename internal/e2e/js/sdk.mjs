// A chatbot made with the TypeScript SDK, version 1 or 2. It reads commands from its standard input and reports to its standard
// output in lines of JSON. It opens no browser: it prints the address, and reads the one at which the user came back.
import { createInterface } from "node:readline";

const [sdk, resource, authMethod, version] = process.argv.slice(2);
const redirect = "http://localhost:33419/callback"; // nobody listens there: the browser stops before

const { Client, StreamableHTTPClientTransport, UnauthorizedError } =
  sdk === "v2"
    ? await import("@modelcontextprotocol/client")
    : {
        ...(await import("@modelcontextprotocol/sdk/client/index.js")),
        ...(await import("@modelcontextprotocol/sdk/client/streamableHttp.js")),
        ...(await import("@modelcontextprotocol/sdk/client/auth.js")),
      };

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const read = async () => (await lines.next()).value;
const say = (o) => console.log(JSON.stringify(o));

// What an application keeps. The SDK alone decides what goes in, and what is thrown away.
const kept = {};
const dropped = [];
let registrations = 0;
let authorize; // the address that the user has to open

const provider = {
  redirectUrl: redirect,
  clientMetadata: {
    client_name: `TypeScript SDK ${sdk}`,
    redirect_uris: [redirect],
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
    token_endpoint_auth_method: authMethod,
  },
  state: () => (kept.state = crypto.randomUUID()),
  clientInformation: () => kept.client,
  saveClientInformation: (client) => {
    kept.client = client;
    registrations++;
  },
  tokens: () => kept.tokens,
  saveTokens: (tokens) => {
    kept.tokens = tokens;
  },
  codeVerifier: () => kept.verifier,
  saveCodeVerifier: (verifier) => {
    kept.verifier = verifier;
  },
  discoveryState: () => kept.discovery,
  saveDiscoveryState: (discovery) => {
    kept.discovery = discovery;
  },
  redirectToAuthorization: (url) => {
    authorize = String(url);
  },
  invalidateCredentials: (scope) => {
    dropped.push(scope);
    for (const what of scope === "all" ? ["client", "tokens", "verifier", "discovery"] : [scope]) delete kept[what];
  },
};

let client, transport;

// attempt does something, and once more after the user's login when the SDK asks for one.
async function attempt(what) {
  try {
    return await what();
  } catch (e) {
    if (!(e instanceof UnauthorizedError) || !authorize) throw e;
  }
  say({ authorize });
  authorize = undefined;
  const back = new URL(await read()).searchParams;
  if (back.get("state") !== kept.state) throw new Error(`state came back as ${back.get("state")}`);
  await transport.finishAuth(sdk === "v2" ? back : back.get("code"));
  return await what();
}

async function connect() {
  client = new Client({ name: "test", version: "1" }, { versionNegotiation: { mode: version < "2026" ? "legacy" : { pin: version } } });
  transport = new StreamableHTTPClientTransport(new URL(resource), { authProvider: provider });
  await client.connect(transport);
}

async function use() {
  const { tools } = await client.listTools(undefined, { cacheMode: "bypass" });
  const answer = await client.callTool({ name: "whoami", arguments: {} });
  return { tools: tools.map((t) => t.name), who: answer.content[0].text };
}

for (let command; (command = await read()) !== undefined; ) {
  try {
    if (command === "close") {
      await client.close();
      continue;
    }
    if (command.includes("spoil")) kept.tokens = { ...kept.tokens, access_token: "spoiled" }; // as if it had expired
    if (command.includes("connect")) await attempt(connect);
    const used = await attempt(use);
    say({
      ...used,
      version: transport.protocolVersion,
      clientID: kept.client.client_id,
      authMethod: kept.client.token_endpoint_auth_method,
      accessToken: kept.tokens.access_token,
      refreshToken: kept.tokens.refresh_token,
      registrations,
      dropped,
    });
  } catch (e) {
    say({ error: `${e.stack} ${e.cause ?? ""}` });
  }
}
await client?.close();
