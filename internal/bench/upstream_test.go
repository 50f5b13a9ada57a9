package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// asUpstream is the environment variable that makes this binary an MCP server, and names its address; asSDK makes it one of the official Go SDK.
const (
	asUpstream = "OAUTH_PROXY_BENCH_UPSTREAM"
	asSDK      = "OAUTH_PROXY_BENCH_SDK"
)

// found is what a tool answers, and answer the body of every answer.
var (
	found  = strings.Repeat("0123456789abcdef", 110)
	answer = `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"` + found + `"}]}}`
)

// startUpstream starts an MCP server in a process of its own, which answers every request at once with the same, and costs as little as can be: what is measured is
// what stands before it. One of the official Go SDK says how much of that is seen where there is a real one.
func startUpstream(b *testing.B, sdk bool) (address string) {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	address = fmt.Sprintf("127.0.0.1:%d", freePort(b))
	cmd := exec.CommandContext(b.Context(), exe)
	cmd.Env = append(os.Environ(), asUpstream+"="+address)
	if sdk {
		cmd.Env = append(cmd.Env, asSDK+"=1")
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return address
}

func serveUpstream() {
	l, err := net.Listen("tcp", os.Getenv(asUpstream))
	if err != nil {
		panic(err)
	}
	if os.Getenv(asSDK) != "" {
		panic(http.Serve(l, sdkServer()))
	}
	whole := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
	for {
		conn, err := l.Accept()
		if err != nil {
			panic(err)
		}
		go serveConn(conn, whole)
	}
}

// sdkServer is a server with one tool.
func sdkServer() http.Handler {
	server := mcp.NewServer(&mcp.Implementation{Name: "bench", Version: "1"}, nil)
	type query struct {
		Query string `json:"query"`
		Limit int    `json:"limit"`
	}
	mcp.AddTool(server, &mcp.Tool{Name: "search"}, func(context.Context, *mcp.CallToolRequest, query) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: found}}}, nil, nil
	})
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true})
}

func serveConn(conn net.Conn, whole []byte) {
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	for {
		_, length, err := readHead(in)
		if err != nil {
			return
		}
		if _, err := in.Discard(length); err != nil {
			return
		}
		if _, err := conn.Write(whole); err != nil {
			return
		}
	}
}

var contentLength = []byte("content-length:")

// readHead reads the head of a request or an answer: its first line, and the length of its body.
func readHead(in *bufio.Reader) (first string, length int, err error) {
	for n := 0; ; n++ {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return "", 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case n == 0:
			first = string(line)
		case len(line) == 0:
			return first, length, nil
		case len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength):
			if length, err = strconv.Atoi(strings.TrimSpace(string(line[len(contentLength):]))); err != nil || length < 0 {
				return "", 0, io.ErrUnexpectedEOF
			}
		}
	}
}
