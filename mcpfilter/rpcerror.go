package mcpfilter

import "encoding/json"

// The JSON-RPC error codes that the gateway answers with (JSON-RPC 2.0 section 5.1, MCP 2026-07-28).
const (
	rpcInvalidRequest = -32600
	rpcInvalidParams  = -32602
	rpcInternalError  = -32603
	rpcHeaderMismatch = -32020
)

// rpcError is a JSON-RPC error response.
type rpcError struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Error   rpcProblem      `json:"error"`
}

type rpcProblem struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// newRPCError answers the request of this id; without one it is null.
func newRPCError(id json.RawMessage, code int, text string) rpcError {
	if id == nil {
		id = json.RawMessage("null")
	}
	return rpcError{Version: "2.0", ID: id, Error: rpcProblem{code, text}}
}
