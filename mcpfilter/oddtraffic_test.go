package mcpfilter_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// odd is a request and its answer, each as it is on the wire: a head, in which a colon alone stands for the headers that every request here has, and a body.
type odd struct{ request, answer string }

// wire makes lines end as HTTP wants them, and puts a body behind.
func wire(head, body string) string {
	return strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + body
}

// fixed is a message whose length is told.
func fixed(head, body string) string {
	return wire(fmt.Sprintf("%s\nContent-Length: %d", head, len(body)), body)
}

// chunked is a message in pieces, each with an extension that nobody knows (RFC 9112 section 7.1.1), and with trailers.
func chunked(head, trailers string, pieces ...string) string {
	var body strings.Builder
	for i, piece := range pieces {
		fmt.Fprintf(&body, "%04x;piece=\"%d\"\r\n%s\r\n", len(piece), i, piece)
	}
	return wire(head+"\nTransfer-Encoding: chunked", body.String()+"0\r\n"+trailers+"\r\n")
}

func zipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.String()
}

// jsonOddly is JSON that means the same however it is read, and is written anew by everyone who writes it.
const jsonOddly = " {\r\n\t\"jsonrpc\" : \"2.0\", \"id\":90071992547409931234567890.0 ,\"method\":\"tools\\/call\"," +
	"\"params\":{\"a\":1,\"a\":{\"a\":2},\"\\u0061\":\"\\uD83D\\uDE00 \\ud800 \\u2028 <&> \u2028\",\"n\":[-0.0E-0,1e400,0.1000000000000000055511151231257827]}}\n \n"

const (
	posted     = "POST /jira/mcp HTTP/1.1\n:\nContent-Type: application/json"
	answered   = "HTTP/1.1 200 OK\nContent-Type: application/json"
	streamed   = "HTTP/1.1 200 OK\nContent-Type: text/event-stream"
	oneResult  = `{"jsonrpc":"2.0","id":1,"result":{}}`
	oneProblem = `{"jsonrpc":"2.0","id":1,"error":{"code":-32020,"message":"Header Mismatch"}}`
)

// oddPassages are what is legal, and seldom.
func oddPassages() map[string]odd {
	long := `{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"` + strings.Repeat("äöü", 300_000) + `"}}`
	events := strings.Join([]string{
		"\ufeff: a comment\r\n\r\n", "id: 1/ä\r\nevent: message\r\nretry: 10\r\ndata: {\"jsonrpc\":\r\ndata:\"2.0\"}\r\n\r\n", "id:2\rdata: lone CR\r\r", ":\n\n:keep-alive\n\n",
		"data\n\n", "id: \x00\nnobody: knows\ndata: \xff\xfe\n\n", "data: " + strings.Repeat("x", 300_000) + "\n\n", "id: 3\ndata: no blank line",
	}, "")
	all := map[string]odd{
		"odd JSON both ways":                  {fixed(posted, jsonOddly), fixed(answered, jsonOddly)},
		"batch of 2025-03-26":                 {fixed(posted+"\nMCP-Protocol-Version: 2025-03-26", `[{"jsonrpc":"2.0","id":1,"method":"ping"},`+jsonOddly+`,{"jsonrpc":"2.0","method":"n"}]`), fixed(answered, "["+oneResult+" ,"+oneResult+"]")},
		"batch answered by events":            {fixed(posted, "["+jsonOddly+"]"), chunked(streamed, "", "data: ["+oneResult+"]\n\n")},
		"notification":                        {fixed(posted, `{"jsonrpc":"2.0","method":"notifications/initialized"}`), fixed("HTTP/1.1 202 Accepted", "")},
		"response":                            {fixed(posted, oneResult), fixed("HTTP/1.1 202 Accepted\nMcp-Session-Id: s", "")},
		"response, 202 without length":        {fixed(posted, oneResult), wire("HTTP/1.1 202 Accepted\nConnection: close", "")},
		"broken JSON":                         {fixed(posted, `{"jsonrpc":`), fixed("HTTP/1.1 400 Bad Request\nContent-Type: application/json", `{"jsonrpc":"2.0","id":null,"error":{"code":-32700}}`)},
		"byte order mark":                     {fixed(posted, "\ufeff"+jsonOddly), fixed(answered, "\ufeff"+oneResult)},
		"what is no UTF-8":                    {fixed(posted, "{\"method\":\"\xff\xfe\x00\"}"), fixed(answered, "\"\xff\xfe\x00\"")},
		"UTF-16":                              {fixed(posted+";charset=UTF-16LE", "{\x00}\x00"), fixed(answered+";charset=UTF-16LE", "{\x00}\x00")},
		"nothing":                             {fixed(posted, ""), fixed(answered, "")},
		"chunks both ways":                    {chunked(posted, "", jsonOddly[:1], jsonOddly[1:70], jsonOddly[70:]), chunked(answered, "", jsonOddly[:40], jsonOddly[40:41], jsonOddly[41:])},
		"trailers":                            {chunked(posted+"\nTrailer: X-Late", "X-Late: 1\r\nAuthorization: Bearer other\r\n", jsonOddly), chunked(answered+"\nTrailer: X-Late", "X-Late: 1\r\n", oneResult)},
		"long":                                {fixed(posted, long), fixed(answered, long)},
		"long, in chunks":                     {chunked(posted, "", long[:5], long[5:60_000], long[60_000:]), chunked(answered, "", long[:60_000], long[60_000:])},
		"other media type":                    {chunked("POST /jira/mcp HTTP/1.1\n:\nContent-Type: application/x-yaml", "X-Late: 1\r\n", "a: ", "1\r\n"), fixed("HTTP/1.1 415 Unsupported Media Type\nContent-Type: text/plain", "no\r\n")},
		"no media type":                       {fixed("POST /jira/mcp HTTP/1.1\n:", jsonOddly), fixed("HTTP/1.1 200 OK", "<html>")},
		"expectation":                         {fixed(posted+"\nExpect: 100-continue", jsonOddly), fixed(answered, oneResult)},
		"early hints":                         {fixed(posted, jsonOddly), wire("HTTP/1.1 103 Early Hints\nLink: <x>", "") + fixed(answered, oneResult)},
		"other words for OK":                  {fixed(posted, jsonOddly), fixed("HTTP/1.1 200 If you say so\nContent-Type: application/json", oneResult)},
		"length told by the end":              {fixed(posted, jsonOddly), wire(answered+"\nConnection: close", oneResult)},
		"zipped, as was asked for":            {fixed(posted+"\nAccept-Encoding: br;q=0.1, gzip", jsonOddly), fixed(answered+"\nContent-Encoding: gzip\nVary: Accept-Encoding", zipped(oneResult))},
		"zipped, though nobody asked":         {fixed(posted, jsonOddly), fixed(answered+"\nContent-Encoding: gzip", zipped(oneResult))},
		"zipped stream":                       {fixed(posted+"\nAccept-Encoding: gzip", jsonOddly), chunked(streamed+"\nContent-Encoding: gzip", "", zipped(events)[:20], zipped(events)[20:])},
		"zipped request":                      {fixed(posted+"\nContent-Encoding: gzip", zipped(jsonOddly)), fixed(answered, oneResult)},
		"events":                              {fixed(posted+"\nAccept: application/json, text/event-stream", jsonOddly), chunked(streamed+";charset=utf-8\nX-Accel-Buffering: no\nCache-Control: no-cache, no-transform", "", events[:3], events[3:90], events[90:])},
		"events of told length":               {fixed(posted, jsonOddly), fixed(streamed, events)},
		"events on GET":                       {wire("GET /jira/mcp HTTP/1.1\n:\nAccept: text/event-stream\nLast-Event-ID: Stream/7_ä", ""), wire(streamed+"\nConnection: close", events)},
		"stream that breaks off":              {fixed(posted, jsonOddly), wire(streamed+"\nTransfer-Encoding: chunked", "4\r\ndata\r\n")},
		"answer that breaks off":              {fixed(posted, jsonOddly), wire(answered+"\nContent-Length: 99", oneResult)},
		"GET of a stateless server":           {wire("GET /jira/mcp HTTP/1.1\n:\nAccept: text/event-stream", ""), fixed("HTTP/1.1 405 Method Not Allowed\nAllow: POST\nContent-Type: text/plain", "POST only\n")},
		"DELETE":                              {wire("DELETE /jira/mcp HTTP/1.1\n:\nMcp-Session-Id: S-1", ""), wire("HTTP/1.1 204 No Content", "")},
		"DELETE that is not allowed":          {wire("DELETE /jira/mcp HTTP/1.1\n:\nMcp-Session-Id: S-1", ""), fixed("HTTP/1.1 405 Method Not Allowed\nAllow: GET, POST", "")},
		"DELETE with a body":                  {fixed("DELETE /jira/mcp HTTP/1.1\n:\nContent-Type: application/json", jsonOddly), fixed(answered, oneResult)},
		"HEAD":                                {wire("HEAD /jira/mcp HTTP/1.1\n:", ""), wire(answered+"\nContent-Length: 1234", "")},
		"OPTIONS that is no preflight":        {wire("OPTIONS /jira/mcp HTTP/1.1\n:\nOrigin: http://localhost:6274", ""), wire("HTTP/1.1 204 No Content\nAllow: POST, OPTIONS", "")},
		"other method":                        {fixed("QUERY /jira/mcp HTTP/1.1\n:\nContent-Type: application/json", jsonOddly), fixed("HTTP/1.1 501 Not Implemented\nContent-Type: application/json", oneProblem)},
		"not modified":                        {wire("GET /jira/mcp/x HTTP/1.1\n:\nIf-None-Match: \"1\"", ""), wire("HTTP/1.1 304 Not Modified\nEtag: \"1\"", "")},
		"range":                               {wire("GET /jira/mcp/x HTTP/1.1\n:\nRange: bytes=1-2", ""), fixed("HTTP/1.1 206 Partial Content\nContent-Type: application/octet-stream\nContent-Range: bytes 1-2/9", "12")},
		"query":                               {wire("GET /jira/mcp?a=%2F&b=+x%20&&=&c;d='\"|&e=%zz HTTP/1.1\n:", ""), fixed(answered, oneResult)},
		"empty query":                         {fixed("POST /jira/mcp? HTTP/1.1\n:\nContent-Type: application/json", jsonOddly), fixed(answered, oneResult)},
		"path below":                          {wire("GET /jira/mcp/a%20b/%C3%A4+(c),d/ HTTP/1.1\n:", ""), fixed(answered, oneResult)},
		"names in any case":                   {fixed(posted+"\nmcp-METHOD: tools/CALL\nMCP-name: Ä =?base64?w6Q=?=\nmcp-param-Region: us-West 1\nmcp-session-ID: S-1\nLAST-event-id:   7", jsonOddly), fixed(answered+"\nMCP-SESSION-id: S-1\nx-ACCEL-buffering: no", oneResult)},
		"values empty, and several":           {fixed(posted+"\nMcp-Name:\nMcp-Param-A: 1\nMcp-Param-A: 2\nMcp-Param-A:\nAccept: a/b\nAccept: c/d, e/f", jsonOddly), fixed(answered+"\nX-A:\nX-A: 1\nX-A: 2,3", oneResult)},
		"values as long as they come":         {fixed(posted+"\nMcp-Param-Long: "+strings.Repeat("a,", 10_000), jsonOddly), fixed(answered+"\nX-Long: "+strings.Repeat("b;", 10_000), oneResult)},
		"values beyond ASCII":                 {fixed(posted+"\nMcp-Name: \u00e4\u2028\nMcp-Param-B: \xff\xe4", jsonOddly), fixed(answered+"\nX-B: \xff\xe4", oneResult)},
		"no user agent, no accepted encoding": {fixed("POST /jira/mcp HTTP/1.1\n:", jsonOddly), fixed(answered, oneResult)},
		"initialize":                          {fixed(posted+"\nAccept: application/json, text/event-stream", `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}`), fixed(answered+"\nMcp-Session-Id: S-1", oneResult)},
		"version that nobody knows":           {fixed(posted+"\nMCP-Protocol-Version: 2099-01-01\nMcp-Method: future/thing\nMcp-Name: x", `{"jsonrpc":"2.0","id":1,"method":"future/thing"}`), fixed("HTTP/1.1 400 Bad Request\nContent-Type: application/json", `{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"data":{"supported":["2026-07-28"]}}}`)},
		"session of the stateless era":        {fixed(posted+"\nMCP-Protocol-Version: 2026-07-28\nMcp-Method: tools/list\nMcp-Session-Id: whatever", listTools), fixed(answered, oneResult)},
	}
	// Whatever a server says no with is for the client: a client of both eras learns from a 400 which one it is, and from a 404 that its session is over, or
	// that there is no such method (MCP transports, "Backward Compatibility"). Auth is another matter: 401.
	for _, status := range []int{400, 402, 403, 404, 405, 406, 408, 409, 410, 413, 421, 422, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 511, 599} {
		all[fmt.Sprint("status ", status)] = odd{
			fixed(posted+"\nMcp-Session-Id: S-1\nMCP-Protocol-Version: 2026-07-28", jsonOddly),
			fixed(fmt.Sprintf("HTTP/1.1 %d No\nContent-Type: application/json\nRetry-After: 7", status), oneProblem),
		}
	}
	return all
}

func TestOddTrafficPassesByteForByte(t *testing.T) {
	t.Parallel()
	passages := oddPassages()
	for name, c := range map[string]struct{ site, path string }{
		"header": {transparentHeader, "/jira/mcp"}, "transport": {viaProxy, "/v1/mcp"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inside := startTap(t, startScripted(t, passages))
			g := newGateway(t)
			s := startCaddyAt(t, g, resource, c.site, inside.URL)
			outside := startTap(t, s.URL)
			for name, p := range passages {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					request := strings.ReplaceAll(p.request, ": S-1", ": "+g.tagged("S-1"))
					sendRaw(t, outside.URL, strings.Replace(request, "\r\n:", "\r\nHost: gw.test\r\nAuthorization: Bearer good-token\r\nX-Passage: "+name, 1))
				})
			}
			t.Cleanup(func() { // when all are through
				if passed := compareTaps(t, outside, inside, "/jira/mcp", c.path); len(passed) != len(passages) {
					t.Errorf("%d of %d passed", len(passed), len(passages))
				}
			})
		})
	}
}

// startScripted starts a server that answers as the passages say.
func startScripted(t *testing.T, passages map[string]odd) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(conn net.Conn) {
		defer conn.Close()
		r := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			answer := passages[req.Header.Get("X-Passage")].answer
			_, err = io.WriteString(conn, answer)
			head, _, _ := strings.Cut(answer, "\r\n\r\n")
			if err != nil || strings.Contains(head, "Connection: close") || strings.Contains(req.Header.Get("X-Passage"), "breaks off") {
				return
			}
		}
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return "http://" + l.Addr().String()
}

// sendRaw sends bytes and waits for the answer to them.
func sendRaw(t *testing.T, server, request string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(server, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	for r := bufio.NewReader(conn); ; {
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if res.StatusCode >= 200 {
			return
		}
	}
}
