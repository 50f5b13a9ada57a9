#!/usr/bin/env python3
"""A chatbot without the chat: it logs a person in at the gateway, lists a server's tools and calls one.

    python3 examples/chatbot/chatbot.py http://localhost:8080/demo/mcp

Python 3.9 or later, and nothing but its standard library. Tokens are kept in a file of mode 0600 (--tokens), session tokens in memory.
"""

import argparse
import base64
import concurrent.futures
import getpass
import hashlib
import hmac
import http.client
import http.server
import json
import os
import re
import secrets
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import webbrowser

MCP_VERSION = "2026-07-28"  # each request stands by itself; servers of 2025 want a session, see examples/README.md
MARGIN = 60  # seconds before its end at which an access token counts as expired: a request takes time, and clocks differ
PATIENCE = 300  # seconds that a person has in the browser


class Failed(Exception):
    """Something went wrong. The login is as good as before: try again later."""

    exit_code, error, scope = 1, None, ""


class NotLoggedIn(Failed):
    """Nobody has logged in so far."""

    exit_code = 3


class LoginExpired(Failed):
    """There was a login, and it is over: it was too old, or the user or an operator ended it."""

    exit_code = 4


class ScopeNeeded(Failed):
    """The user is logged in, but has not allowed this."""

    exit_code = 5


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to another place."""

    def redirect_request(self, *args):
        return None


opener = urllib.request.build_opener(NoRedirects)


def send(url, body=None, headers=None):
    """Sends a request and returns the status, the headers and the body, whatever they are."""
    where = urllib.parse.urlsplit(url)
    if where.scheme != "https" and where.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise Failed(f"{where.hostname}: tokens travel by https, or stay on this machine")
    request = urllib.request.Request(url, body, headers or {})
    try:
        with opener.open(request, timeout=30) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.headers, e.read()
    except (OSError, http.client.HTTPException) as e:
        raise Failed(f"{where.netloc} cannot be reached: {getattr(e, 'reason', e)}; try again later") from e


def parse(body):
    """Reads a JSON object. What is none, such as a proxy's error page, is an empty one."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def fetch(url, body=None, headers=None):
    """Sends a request that must be answered by a JSON object."""
    status, answered, raw = send(url, body, headers)
    answer = parse(raw)
    if status >= 300:
        raise refused(status, answered, answer)
    return answer


def refused(status, headers, answer):
    unsaid = {403: "this is not allowed here; ask who runs the server", 404: "there is no MCP server at this address",
              502: "the MCP server does not answer; try again later"}.get(status, "no reason given")
    what = answer.get("error_description") or challenge(headers).get("error_description") or answer.get("error") or unsaid
    again = headers.get("Retry-After")
    failure = Failed(f"status {status}: {what}" + (f" (try again in {again} s)" if again else ""))
    failure.error = answer.get("error")  # RFC 6749 §5.2
    return failure


def challenge(headers):
    """Reads the parameters of a Bearer challenge (RFC 6750 §3)."""
    text = headers.get("WWW-Authenticate") or ""
    return {name.lower(): value for name, value in re.findall(r'(\w+)="([^"]*)"', text)} if text[:7].lower() == "bearer " else {}


class Chatbot:
    """A client of one MCP server."""

    def __init__(self, server, file):
        self.server, self.file = server, file
        self.lock = threading.Lock()  # one refresh at a time: the others wait for it, and use what it brought
        self.kept = {}
        if os.path.exists(file):
            with open(file, encoding="utf-8") as f:
                kept = parse(f.read())
            if kept.get("server") != server:  # tokens are for the server that they were issued for, and no other
                raise Failed(f"{file} holds a login at {kept.get('server')}: end that one (--logout), or name another file (--tokens)")
            self.kept = kept

    def keep(self, **changes):
        """Writes the file as a whole or not at all: who loses the newest refresh token has lost the login."""
        self.kept = {**self.kept, "server": self.server, **changes}
        handle, name = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(self.file)))  # of mode 0600
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            json.dump(self.kept, f)
        os.replace(name, self.file)

    # Discovery: the server names its authorization server, and that its endpoints.

    def discover(self):
        """Asks the server without a token. The challenge says where its metadata is (RFC 9728 §5.1), and which scope to ask for."""
        status, headers, _ = send(self.server, *self.message("tools/list", {}))
        asked = challenge(headers)
        if status != 401 or "resource_metadata" not in asked:
            raise Failed(f"{self.server} asks for no login: status {status}")
        resource = fetch(asked["resource_metadata"])
        if resource.get("resource") != self.server:  # else a server could have tokens issued for another (RFC 9728 §3.3)
            raise Failed(f"the metadata is that of {resource.get('resource')}")
        return resource["authorization_servers"][0], asked.get("scope") or " ".join(resource.get("scopes_supported", []))

    def metadata(self, issuer):
        """Fetches the metadata of the authorization server (RFC 8414 §3): the well-known part comes before the issuer's own path."""
        u = urllib.parse.urlsplit(issuer)
        found = fetch(f"{u.scheme}://{u.netloc}/.well-known/oauth-authorization-server{u.path.rstrip('/')}")
        if found.get("issuer") != issuer:
            raise Failed(f"the metadata is that of {found.get('issuer')}")
        if "S256" not in found.get("code_challenge_methods_supported", []):
            raise Failed(f"{issuer} does not offer PKCE")
        return found

    # Login.

    def registered(self):
        """Asks whether the registration is still there (RFC 7592 §2.1). Else only a page in the browser would say that it is not, and nobody come back."""
        uri = self.kept.get("registration_client_uri")  # a server need not have one
        return bool(self.kept.get("client_id")) and (not uri or send(uri, None, {
            "Authorization": f"Bearer {self.kept.get('registration_access_token')}"})[0] != 401)

    def log_in(self, more=""):
        """Registers if need be, and leads a person through the browser."""
        issuer, scope = self.discover()
        metadata = self.metadata(issuer)
        with Return() as back:
            if self.kept.get("issuer") != issuer or not self.registered():  # a registration is good at one issuer
                if "registration_endpoint" not in metadata:
                    raise Failed(f"{issuer} takes no registrations: its operator has to configure this client")
                # A public client: a program on the user's machine can keep no secret (RFC 8252 §8.5).
                self.kept = {}
                client = fetch(metadata["registration_endpoint"], json.dumps({
                    "client_name": "Example chatbot (Python)", "application_type": "native", "redirect_uris": [back.uri],
                    "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
                }).encode(), {"Content-Type": "application/json"})
                self.keep(issuer=issuer, client_id=client["client_id"], registration_client_uri=client.get("registration_client_uri"),
                          registration_access_token=client.get("registration_access_token"))
            if more:  # what was allowed before is asked for again, or it would be lost
                scope = " ".join(dict.fromkeys((self.kept.get("scope", "") + " " + more).split()))
            state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
            digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
            url = metadata["authorization_endpoint"] + "?" + urllib.parse.urlencode({
                "response_type": "code", "client_id": self.kept["client_id"], "redirect_uri": back.uri, "state": state, "resource": self.server,
                "code_challenge": digest.rstrip(b"=").decode(), "code_challenge_method": "S256", **({"scope": scope} if scope else {}),
            })
            show(url)
            answer = back.wait(state)
        # Who answers must be who was asked (RFC 9207 §2.4), before anything else of the answer counts.
        if answer.get("iss") != issuer and ("iss" in answer or metadata.get("authorization_response_iss_parameter_supported")):
            raise Failed("another authorization server has answered")
        if "code" not in answer:
            raise Failed(f"the login was refused: {answer.get('error')}: {answer.get('error_description', '')}")
        self.take({"grant_type": "authorization_code", "code": answer["code"], "redirect_uri": back.uri, "code_verifier": verifier},
                  metadata, scope)

    def take(self, form, metadata, scope):
        """Asks the token endpoint, and keeps what it answers."""
        form = {**form, "client_id": self.kept["client_id"], "resource": self.server}  # tokens for this server alone (RFC 8707)
        try:
            tokens = fetch(metadata["token_endpoint"], urllib.parse.urlencode(form).encode())
        except Failed as e:
            if e.error == "invalid_client":  # the registration is gone: the next login makes a new one
                self.keep(client_id=None)
            raise
        self.keep(access_token=tokens["access_token"], expires_at=int(time.time()) + int(tokens.get("expires_in", 3600)),
                  refresh_token=tokens.get("refresh_token") or self.kept.get("refresh_token"), scope=tokens.get("scope", scope))

    # Tokens.

    def access_token(self, rejected=None):
        """Returns an access token that is good for a while. One that the server has rejected is not, whatever the clock says."""
        with self.lock:
            if not self.kept.get("access_token"):
                raise NotLoggedIn("nobody has logged in")
            if self.kept["access_token"] == rejected or self.kept["expires_at"] - time.time() < MARGIN:
                self.refresh()
            return self.kept["access_token"]

    def refresh(self):
        """Exchanges the refresh token for new tokens, of which the refresh token takes the old one's place: that may have been good only once."""
        if not self.kept.get("refresh_token") or not self.kept.get("client_id"):
            raise LoginExpired("the login is over, and cannot be refreshed")
        metadata = self.metadata(self.kept["issuer"])
        try:
            self.take({"grant_type": "refresh_token", "refresh_token": self.kept["refresh_token"]}, metadata, self.kept["scope"])
        except Failed as e:
            # These two alone say that the login is over. After any other failure the same refresh token is tried again, later.
            if e.error in ("invalid_grant", "invalid_client"):
                raise LoginExpired(f"the login is over: {e}") from e
            raise

    def log_out(self):
        """Revokes the login (RFC 7009), and forgets it: whoever finds an old copy of the file has nothing."""
        if self.kept.get("refresh_token") and self.kept.get("client_id"):
            try:
                fetch(self.metadata(self.kept["issuer"])["revocation_endpoint"], urllib.parse.urlencode({
                    "token": self.kept["refresh_token"], "token_type_hint": "refresh_token", "client_id": self.kept["client_id"]}).encode())
            except Failed as e:
                if e.error != "invalid_client":  # then the registration is gone, and the login with it
                    raise
        if os.path.exists(self.file):
            os.remove(self.file)
        self.kept = {}

    # MCP.

    def message(self, method, params):
        """Returns the body and headers of a request that stands by itself."""
        meta = {"protocolVersion": MCP_VERSION, "clientInfo": {"name": "example-chatbot", "version": "1.0.0"}, "clientCapabilities": {}}
        params = {**params, "_meta": {"io.modelcontextprotocol/" + name: value for name, value in meta.items()}}
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": MCP_VERSION,
                   "Mcp-Method": method, **({"Mcp-Name": params["name"]} if "name" in params else {})}
        return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode(), headers

    def request(self, method, params, session_token=None):
        """Sends a request with the access token, or in its place a session token, and returns the result."""
        body, headers = self.message(method, params)
        token = None
        for _ in range(2):
            if session_token:
                headers["X-Session-Token"] = session_token
            else:
                token = self.access_token(rejected=token)
                headers["Authorization"] = "Bearer " + token
            status, answered, raw = send(self.server, body, headers)
            if status != 401 or session_token:
                break  # a token that was rejected is refreshed, once
        asked = challenge(answered)
        if status == 401:
            raise LoginExpired("the server does not take the token")
        if status == 403 and asked.get("error") == "insufficient_scope":
            needed = ScopeNeeded(f"this needs a scope that was not allowed: {asked.get('scope')}")
            needed.scope = asked.get("scope", "")
            raise needed
        answer = parse(raw)
        if "text/event-stream" in (answered.get("Content-Type") or ""):  # notifications, and the answer at the end
            events = [parse(line[5:]) for line in raw.decode().splitlines() if line.startswith("data:")]
            answer = next((event for event in events if event.get("id") == 1), {})
        if "error" in answer and isinstance(answer["error"], dict):
            raise Failed(f"the server answers: {answer['error'].get('message')}")
        if status != 200 or "result" not in answer:
            raise refused(status, answered, answer)
        return answer["result"]

    def call(self, tool, arguments, session_token=None):
        """Calls a tool and returns the text that it answers."""
        result = self.request("tools/call", {"name": tool, "arguments": arguments}, session_token)
        text = "\n".join(part["text"] for part in result["content"] if part["type"] == "text")
        if result.get("isError"):
            raise Failed(f"{tool}: {text}")
        return text

    # Session tokens, for scripts that are no OAuth clients.

    def use_session(self, provider, tool, arguments):
        """Lets a person log in and paste the token, calls a tool with it, refreshes it and ends it. It is never written down."""
        api = self.discover()[0].rstrip("/") + "/api/v1/oauth/"

        def ask(what, token):
            return fetch(api + what, json.dumps({"session_token": token}).encode(), {"Content-Type": "application/json"}).get("data")

        show(fetch(api + "authorize/" + urllib.parse.quote(provider, safe=""), b"")["data"]["authorization_url"])
        sys.stdout.flush()
        token = (getpass.getpass("Paste the session token: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()
        known = ask("validate", token)
        if not known.get("valid"):
            raise LoginExpired("that is no session token, or not a good one any more")
        print(f"\nLogged in as {known.get('user_email')}.\n{self.call(tool, arguments, token)}")
        token = ask("refresh", token)["session_token"]
        print(f"Refreshed.\n{self.call(tool, arguments, token)}")
        ask("logout", token)
        print("Logged out.")


class Return:
    """Waits on a free port of this machine for the browser to come back (RFC 8252 §7.3). The authorization server allows any port there."""

    def __enter__(self):
        outer = self
        self.wanted, self.answer = None, None

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 10  # seconds: who connects and says nothing holds up nobody

            def do_GET(self):
                url = urllib.parse.urlsplit(self.path)
                answer = dict(urllib.parse.parse_qsl(url.query))
                # Any page in the browser can send requests here: what has not the state is not the answer (RFC 6749 §10.12).
                expected = url.path == "/callback" and hmac.compare_digest(answer.get("state", "").encode(), outer.wanted.encode())
                self.send_response(200 if expected else 400)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.end_headers()
                self.wfile.write(b"You can close this window and go back to the chatbot.\n" if expected else b"This is not the login that was begun.\n")
                if expected:
                    outer.answer = answer

            def log_message(self, *args):
                pass  # it would show the code

        self.listener = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.listener.server_port}/callback"
        return self

    def wait(self, state):
        self.wanted, end = state, time.monotonic() + PATIENCE
        while self.answer is None:
            self.listener.timeout = end - time.monotonic()
            if self.listener.timeout <= 0:
                raise Failed("nobody came back from the browser")
            self.listener.handle_request()
        return self.answer

    def __exit__(self, *args):
        self.listener.server_close()


def show(url):
    print(f"Open this address in your browser and log in:\n\n  {url}\n", flush=True)
    if sys.stdout.isatty():
        webbrowser.open(url)


def chat(bot, tool, arguments):
    """Lists the tools and calls one, at once: if the access token is old, one refresh is enough for both."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        listing, call = pool.submit(bot.request, "tools/list", {}), pool.submit(bot.call, tool, arguments)
        tools, answer = listing.result()["tools"], call.result()
    print("Tools:", *(f"  {t['name']:<8} {t.get('description', '')}" for t in tools), sep="\n")
    print(f"\n{tool}:\n  {answer}")


def main():
    parser = argparse.ArgumentParser(description="Logs in at the gateway and calls a tool of an MCP server behind it.")
    parser.add_argument("server", help="the MCP server's URL")
    parser.add_argument("tool", nargs="?", default="whoami", help="the tool to call (default: whoami)")
    parser.add_argument("arguments", nargs="?", default="{}", type=json.loads, help="its arguments, a JSON object")
    parser.add_argument("--tokens", default=".chatbot.json", help="the file that the login is kept in (default: .chatbot.json)")
    parser.add_argument("--no-login", action="store_true", help="ask nobody: exit with 3 (not logged in), 4 (expired), 5 (scope missing) or 1 (failed)")
    parser.add_argument("--logout", action="store_true", help="end the login")
    parser.add_argument("--session", metavar="PROVIDER", help="use a session token of this provider, which is not kept")
    args = parser.parse_args()
    try:
        bot = Chatbot(args.server, args.tokens)
        if args.logout:
            bot.log_out()
            print("Logged out.")
        elif args.session:
            bot.use_session(args.session, args.tool, args.arguments)
        else:
            for attempt in range(3):  # a login, and a scope more, but nobody is asked for ever
                try:
                    return chat(bot, args.tool, args.arguments)
                except (NotLoggedIn, LoginExpired, ScopeNeeded) as e:
                    if args.no_login or attempt == 2:
                        raise
                    if not isinstance(e, NotLoggedIn):  # the first login needs no reason
                        print(f"chatbot: {e}", file=sys.stderr)
                    bot.log_in(e.scope)
    except Failed as e:
        print(f"chatbot: {e}", file=sys.stderr)
        sys.exit(e.exit_code)


if __name__ == "__main__":
    main()
