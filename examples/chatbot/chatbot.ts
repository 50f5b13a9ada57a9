// A chatbot without the chat: it logs a person in at the gateway, lists a server's tools and calls one.
//
//     node examples/chatbot/chatbot.ts http://localhost:8080/demo/mcp
//
// Node.js 22.18 or later, which strips the types by itself, and nothing but its own modules. Tokens are kept in a file of mode 0600
// (--tokens), session tokens in memory.
import { spawn } from "node:child_process";
import { createHash, randomBytes, randomUUID, timingSafeEqual } from "node:crypto";
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { parseArgs } from "node:util";

const mcpVersion = "2026-07-28"; // each request stands by itself; servers of 2025 want a session, see examples/README.md
const margin = 60; // seconds before its end at which an access token counts as expired: a request takes time, and clocks differ
const patience = 300_000; // milliseconds that a person has in the browser

type Dict = Record<string, any>;
type Answer = { status: number; headers: Headers; text: string };

/** What the file holds. */
type Kept = {
  server?: string;
  issuer?: string;
  client_id?: string;
  registration_client_uri?: string;
  registration_access_token?: string;
  access_token?: string;
  refresh_token?: string;
  expires_at?: number; // seconds since 1970
  scope?: string;
};

/** Something went wrong. The login is as good as before: try again later. */
class Failed extends Error {
  exitCode = 1;
  code?: string; // RFC 6749 §5.2
  scope = "";
}

/** Nobody has logged in so far. */
class NotLoggedIn extends Failed {
  override exitCode = 3;
}

/** There was a login, and it is over: it was too old, or the user or an operator ended it. */
class LoginExpired extends Failed {
  override exitCode = 4;
}

/** The user is logged in, but has not allowed this. */
class ScopeNeeded extends Failed {
  override exitCode = 5;
}

/** Sends a request and returns the answer, whatever it is. A redirect is not followed: it would carry the token to another place. */
async function send(url: string, init: RequestInit = {}): Promise<Answer> {
  const { protocol, hostname, host } = new URL(url);
  if (protocol !== "https:" && !["localhost", "127.0.0.1", "[::1]"].includes(hostname))
    throw new Failed(`${hostname}: tokens travel by https, or stay on this machine`);
  try {
    const response = await fetch(url, { redirect: "manual", signal: AbortSignal.timeout(30_000), ...init });
    return { status: response.status, headers: response.headers, text: await response.text() };
  } catch (e) {
    throw new Failed(`${host} cannot be reached: ${((e as Error).cause as Error)?.message ?? e}; try again later`);
  }
}

/** Reads a JSON object. What is none, such as a proxy's error page, is an empty one. */
function parse(text: string): Dict {
  try {
    const value = JSON.parse(text);
    return value instanceof Object ? value : {};
  } catch {
    return {};
  }
}

/** Sends a request that must be answered by a JSON object. */
async function ask(url: string, init?: RequestInit): Promise<Dict> {
  const answer = await send(url, init);
  if (answer.status >= 300) throw refused(answer);
  return parse(answer.text);
}

const form = (fields: Record<string, string>) => ({ method: "POST", body: new URLSearchParams(fields) });
const json = (body: Dict) => ({ method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

function refused({ status, headers, text }: Answer): Failed {
  const { error, error_description } = parse(text);
  const again = headers.get("Retry-After");
  const unsaid: Record<number, string> = {
    403: "this is not allowed here; ask who runs the server",
    404: "there is no MCP server at this address",
    502: "the MCP server does not answer; try again later",
  };
  const what = error_description ?? challenge(headers).error_description ?? error ?? unsaid[status] ?? "no reason given";
  const failure = new Failed(`status ${status}: ${what}${again ? ` (try again in ${again} s)` : ""}`);
  failure.code = error;
  return failure;
}

/** Reads the parameters of a Bearer challenge (RFC 6750 §3). */
function challenge(headers: Headers): Dict {
  const text = headers.get("WWW-Authenticate") ?? "";
  return /^bearer /i.test(text) ? Object.fromEntries([...text.matchAll(/(\w+)="([^"]*)"/g)].map((m) => [m[1].toLowerCase(), m[2]])) : {};
}

/** Returns the body and headers of an MCP request that stands by itself. */
function message(method: string, params: Dict) {
  const meta = { protocolVersion: mcpVersion, clientInfo: { name: "example-chatbot", version: "1.0.0" }, clientCapabilities: {} };
  const _meta = Object.fromEntries(Object.entries(meta).map(([name, value]) => [`io.modelcontextprotocol/${name}`, value]));
  const headers: Record<string, string> = {
    "Content-Type": "application/json",
    Accept: "application/json, text/event-stream",
    "MCP-Protocol-Version": mcpVersion,
    "Mcp-Method": method,
  };
  if (params.name) headers["Mcp-Name"] = params.name;
  return { method: "POST", headers, body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params: { ...params, _meta } }) };
}

/** A client of one MCP server. */
class Chatbot {
  server: string;
  file: string;
  kept: Kept = {};
  refreshing?: Promise<void>; // one refresh at a time: the others wait for it, and use what it brought

  constructor(server: string, file: string) {
    this.server = server;
    this.file = file;
    if (!existsSync(file)) return;
    const kept: Kept = parse(readFileSync(file, "utf8"));
    // Tokens are for the server that they were issued for, and no other.
    if (kept.server !== server) throw new Failed(`${file} holds a login at ${kept.server}: end that one (--logout), or name another file (--tokens)`);
    this.kept = kept;
  }

  /** Writes the file as a whole or not at all: who loses the newest refresh token has lost the login. */
  keep(changes: Kept) {
    this.kept = { ...this.kept, server: this.server, ...changes };
    const half = `${this.file}.${randomUUID()}`;
    writeFileSync(half, JSON.stringify(this.kept), { mode: 0o600, flag: "wx" });
    renameSync(half, this.file);
  }

  // Discovery: the server names its authorization server, and that its endpoints.

  /** Asks the server without a token. The challenge says where its metadata is (RFC 9728 §5.1), and which scope to ask for. */
  async discover(): Promise<{ issuer: string; scope: string }> {
    const { status, headers } = await send(this.server, message("tools/list", {}));
    const asked = challenge(headers);
    if (status !== 401 || !asked.resource_metadata) throw new Failed(`${this.server} asks for no login: status ${status}`);
    const metadata = await ask(asked.resource_metadata);
    // Else a server could have tokens issued for another (RFC 9728 §3.3).
    if (metadata.resource !== this.server) throw new Failed(`the metadata is that of ${metadata.resource}`);
    return { issuer: metadata.authorization_servers[0], scope: asked.scope ?? (metadata.scopes_supported ?? []).join(" ") };
  }

  /** Fetches the metadata of the authorization server (RFC 8414 §3): the well-known part comes before the issuer's own path. */
  async metadata(issuer: string): Promise<Dict> {
    const { origin, pathname } = new URL(issuer);
    const metadata = await ask(`${origin}/.well-known/oauth-authorization-server${pathname.replace(/\/$/, "")}`);
    if (metadata.issuer !== issuer) throw new Failed(`the metadata is that of ${metadata.issuer}`);
    if (!metadata.code_challenge_methods_supported?.includes("S256")) throw new Failed(`${issuer} does not offer PKCE`);
    return metadata;
  }

  // Login.

  /** Asks whether the registration is still there (RFC 7592 §2.1). Else only a page in the browser would say that it is not, and nobody come back. */
  async registered(): Promise<boolean> {
    const { client_id, registration_client_uri, registration_access_token } = this.kept;
    if (!client_id || !registration_client_uri) return !!client_id; // a server need not have one
    return (await send(registration_client_uri, { headers: { Authorization: `Bearer ${registration_access_token}` } })).status !== 401;
  }

  /** Registers if need be, and leads a person through the browser. */
  async logIn(more = "") {
    let { issuer, scope } = await this.discover();
    const metadata = await this.metadata(issuer);
    const back = await Return.listen();
    try {
      if (this.kept.issuer !== issuer || !(await this.registered())) {
        if (!metadata.registration_endpoint) throw new Failed(`${issuer} takes no registrations: its operator has to configure this client`);
        // A registration is good at one issuer. A public client: a program on the user's machine can keep no secret (RFC 8252 §8.5).
        this.kept = {};
        const client = await ask(
          metadata.registration_endpoint,
          json({
            client_name: "Example chatbot (TypeScript)",
            application_type: "native",
            redirect_uris: [back.uri],
            token_endpoint_auth_method: "none",
            grant_types: ["authorization_code", "refresh_token"],
            response_types: ["code"],
          }),
        );
        const { client_id, registration_client_uri, registration_access_token } = client;
        this.keep({ issuer, client_id, registration_client_uri, registration_access_token });
      }
      // What was allowed before is asked for again, or it would be lost.
      if (more) scope = [...new Set(`${this.kept.scope ?? ""} ${more}`.split(" ").filter(Boolean))].join(" ");
      const state = randomBytes(32).toString("base64url");
      const verifier = randomBytes(48).toString("base64url");
      const url = new URL(metadata.authorization_endpoint);
      const parameters = {
        response_type: "code",
        client_id: this.kept.client_id!,
        redirect_uri: back.uri,
        state,
        resource: this.server,
        code_challenge: createHash("sha256").update(verifier).digest("base64url"),
        code_challenge_method: "S256",
        ...(scope && { scope }),
      };
      for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
      show(url.href);
      const answer = await back.wait(state);
      // Who answers must be who was asked (RFC 9207 §2.4), before anything else of the answer counts.
      const iss = answer.get("iss");
      if (iss !== issuer && (iss !== null || metadata.authorization_response_iss_parameter_supported))
        throw new Failed("another authorization server has answered");
      const code = answer.get("code");
      if (!code) throw new Failed(`the login was refused: ${answer.get("error")}: ${answer.get("error_description") ?? ""}`);
      await this.take({ grant_type: "authorization_code", code, redirect_uri: back.uri, code_verifier: verifier }, metadata, scope);
    } finally {
      back.close();
    }
  }

  /** Asks the token endpoint, and keeps what it answers. */
  async take(fields: Record<string, string>, metadata: Dict, scope: string) {
    let tokens: Dict;
    try {
      // Tokens for this server alone (RFC 8707).
      tokens = await ask(metadata.token_endpoint, form({ ...fields, client_id: this.kept.client_id!, resource: this.server }));
    } catch (e) {
      if (e instanceof Failed && e.code === "invalid_client") this.keep({ client_id: undefined }); // the registration is gone: the next login makes a new one
      throw e;
    }
    this.keep({
      access_token: tokens.access_token,
      refresh_token: tokens.refresh_token ?? this.kept.refresh_token,
      expires_at: Math.floor(Date.now() / 1000) + Number(tokens.expires_in ?? 3600),
      scope: tokens.scope ?? scope,
    });
  }

  // Tokens.

  /** Returns an access token that is good for a while. One that the server has rejected is not, whatever the clock says. */
  async accessToken(rejected?: string): Promise<string> {
    if (!this.kept.access_token) throw new NotLoggedIn("nobody has logged in");
    if (this.kept.access_token === rejected || this.kept.expires_at! - Date.now() / 1000 < margin) {
      this.refreshing ??= this.refresh().finally(() => (this.refreshing = undefined));
      await this.refreshing;
    }
    return this.kept.access_token;
  }

  /** Exchanges the refresh token for new tokens, of which the refresh token takes the old one's place: that may have been good only once. */
  async refresh() {
    const { refresh_token, client_id, issuer, scope } = this.kept;
    if (!refresh_token || !client_id) throw new LoginExpired("the login is over, and cannot be refreshed");
    const metadata = await this.metadata(issuer!);
    try {
      await this.take({ grant_type: "refresh_token", refresh_token }, metadata, scope!);
    } catch (e) {
      // These two alone say that the login is over. After any other failure the same refresh token is tried again, later.
      if (e instanceof Failed && ["invalid_grant", "invalid_client"].includes(e.code!)) throw new LoginExpired(`the login is over: ${e.message}`);
      throw e;
    }
  }

  /** Revokes the login (RFC 7009), and forgets it: whoever finds an old copy of the file has nothing. */
  async logOut() {
    const { refresh_token, client_id, issuer } = this.kept;
    if (refresh_token && client_id) {
      const { revocation_endpoint } = await this.metadata(issuer!);
      try {
        await ask(revocation_endpoint, form({ token: refresh_token, token_type_hint: "refresh_token", client_id }));
      } catch (e) {
        if (!(e instanceof Failed) || e.code !== "invalid_client") throw e; // else the registration is gone, and the login with it
      }
    }
    rmSync(this.file, { force: true });
    this.kept = {};
  }

  // MCP.

  /** Sends a request with the access token, or in its place a session token, and returns the result. */
  async request(method: string, params: Dict, sessionToken?: string): Promise<Dict> {
    const sent = message(method, params);
    const attempt = async (rejected?: string): Promise<Answer> => {
      const token = sessionToken ?? (await this.accessToken(rejected));
      Object.assign(sent.headers, sessionToken ? { "X-Session-Token": token } : { Authorization: `Bearer ${token}` });
      const answer = await send(this.server, sent);
      // A token that was rejected is refreshed, once.
      return answer.status === 401 && !sessionToken && !rejected ? attempt(token) : answer;
    };
    const answer = await attempt();
    const asked = challenge(answer.headers);
    if (answer.status === 401) throw new LoginExpired("the server does not take the token");
    if (answer.status === 403 && asked.error === "insufficient_scope")
      throw Object.assign(new ScopeNeeded(`this needs a scope that was not allowed: ${asked.scope}`), { scope: asked.scope ?? "" });
    let reply = parse(answer.text);
    if (answer.headers.get("Content-Type")?.includes("text/event-stream")) {
      // Notifications, and the answer at the end.
      const data = answer.text.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      reply = data.map((line) => parse(line.slice(5))).find((event) => event.id === 1) ?? {};
    }
    if (reply.error instanceof Object) throw new Failed(`the server answers: ${reply.error.message}`);
    if (answer.status !== 200 || !reply.result) throw refused(answer);
    return reply.result;
  }

  /** Calls a tool and returns the text that it answers. */
  async call(tool: string, args: Dict, sessionToken?: string): Promise<string> {
    const result = await this.request("tools/call", { name: tool, arguments: args }, sessionToken);
    const text = result.content.filter((part: Dict) => part.type === "text").map((part: Dict) => part.text).join("\n");
    if (result.isError) throw new Failed(`${tool}: ${text}`);
    return text;
  }

  // Session tokens, for scripts that are no OAuth clients.

  /** Lets a person log in and paste the token, calls a tool with it, refreshes it and ends it. It is never written down. */
  async useSession(provider: string, tool: string, args: Dict) {
    const { issuer } = await this.discover();
    const api = issuer.replace(/\/$/, "") + "/api/v1/oauth/";
    const care = async (what: string, token: string) => (await ask(api + what, json({ session_token: token }))).data;
    show((await ask(`${api}authorize/${encodeURIComponent(provider)}`, { method: "POST" })).data.authorization_url);
    let token = await paste("Paste the session token: ");
    const known = await care("validate", token);
    if (!known.valid) throw new LoginExpired("that is no session token, or not a good one any more");
    console.log(`\nLogged in as ${known.user_email}.\n${await this.call(tool, args, token)}`);
    token = (await care("refresh", token)).session_token;
    console.log(`Refreshed.\n${await this.call(tool, args, token)}`);
    await care("logout", token);
    console.log("Logged out.");
  }
}

/** Waits on a free port of this machine for the browser to come back (RFC 8252 §7.3). The authorization server allows any port there. */
class Return {
  uri = "";
  server: Server;
  state = "";
  resolve: (answer: URLSearchParams) => void = () => {};

  constructor() {
    this.server = createServer((request, response) => {
      const url = new URL(request.url ?? "/", this.uri);
      // Any page in the browser can send requests here: what has not the state is not the answer (RFC 6749 §10.12).
      const expected = url.pathname === "/callback" && same(url.searchParams.get("state") ?? "", this.state);
      response.writeHead(expected ? 200 : 400, { "Content-Type": "text/plain; charset=utf-8", Connection: "close" });
      response.end(expected ? "You can close this window and go back to the chatbot.\n" : "This is not the login that was begun.\n");
      if (expected) this.resolve(url.searchParams);
    });
  }

  static async listen(): Promise<Return> {
    const back = new Return();
    await new Promise<void>((resolve, reject) => back.server.on("error", reject).listen(0, "127.0.0.1", resolve));
    back.uri = `http://127.0.0.1:${(back.server.address() as AddressInfo).port}/callback`;
    return back;
  }

  wait(state: string): Promise<URLSearchParams> {
    this.state = state;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Failed("nobody came back from the browser")), patience);
      this.resolve = (answer) => (clearTimeout(timer), resolve(answer));
    });
  }

  close() {
    this.server.close();
  }
}

const digest = (text: string) => createHash("sha256").update(text).digest();
const same = (a: string, b: string) => timingSafeEqual(digest(a), digest(b));

function show(url: string) {
  console.log(`Open this address in your browser and log in:\n\n  ${url}\n`);
  if (!process.stdout.isTTY) return;
  const [command, ...args] = { darwin: ["open"], win32: ["rundll32", "url.dll,FileProtocolHandler"] }[process.platform as string] ?? ["xdg-open"];
  spawn(command, [...args, url], { stdio: "ignore", detached: true }).on("error", () => {}).unref(); // the address is on the screen anyway
}

/** Reads a line, which a terminal does not show. */
async function paste(prompt: string): Promise<string> {
  const lines = createInterface({ input: process.stdin, output: new Writable({ write: (_chunk, _encoding, done) => done() }), terminal: process.stdin.isTTY });
  process.stderr.write(prompt);
  const line = await lines.question("");
  lines.close();
  return line.trim();
}

/** Lists the tools and calls one, at once: if the access token is old, one refresh is enough for both. */
async function chat(bot: Chatbot, tool: string, args: Dict) {
  const [{ tools }, answer] = await Promise.all([bot.request("tools/list", {}), bot.call(tool, args)]);
  console.log(["Tools:", ...tools.map((t: Dict) => `  ${t.name.padEnd(8)} ${t.description ?? ""}`)].join("\n"));
  console.log(`\n${tool}:\n  ${answer}`);
}

/** Reads the command line, or returns nothing when it is wrong. */
function commandLine() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        tokens: { type: "string", default: ".chatbot.json" }, // the file that the login is kept in
        "no-login": { type: "boolean" }, // ask nobody: exit with 3 (not logged in), 4 (expired), 5 (scope missing) or 1 (failed)
        logout: { type: "boolean" }, // end the login
        session: { type: "string" }, // use a session token of this provider, which is not kept
      },
    });
    const [server, tool = "whoami", args = "{}"] = positionals;
    return server ? { ...values, server, tool, args: JSON.parse(args) as Dict } : undefined;
  } catch {
    return undefined;
  }
}

async function main(): Promise<number> {
  const line = commandLine();
  if (!line) {
    console.error("usage: chatbot.ts [--tokens FILE] [--no-login | --logout | --session PROVIDER] <MCP server URL> [<tool> [<arguments in JSON>]]");
    return 2;
  }
  const bot = new Chatbot(line.server, line.tokens);
  if (line.logout) {
    await bot.logOut();
    console.log("Logged out.");
    return 0;
  }
  if (line.session) {
    await bot.useSession(line.session, line.tool, line.args);
    return 0;
  }
  for (let attempt = 0; ; attempt++) {
    try {
      await chat(bot, line.tool, line.args);
      return 0;
    } catch (e) {
      // A login, and a scope more, but nobody is asked for ever.
      const missing = e instanceof NotLoggedIn || e instanceof LoginExpired || e instanceof ScopeNeeded;
      if (!missing || line["no-login"] || attempt === 2) throw e;
      if (!(e instanceof NotLoggedIn)) console.error(`chatbot: ${e.message}`); // the first login needs no reason
      await bot.logIn(e.scope);
    }
  }
}

main().then(
  (code) => (process.exitCode = code),
  (e) => {
    console.error(`chatbot: ${e.message}`);
    process.exitCode = e instanceof Failed ? e.exitCode : 1;
  },
);
