package mcpfilter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// plainAnswer turns an event stream into the one answer in it. What the client cannot get that way it is told as a JSON-RPC error; an error is
// returned only when nobody is there any more to be told.
func plainAnswer(ctx context.Context, res *http.Response, id json.RawMessage) error {
	answer, err := answerIn(res, id)
	if err == nil {
		drain(res.Body)
	} else {
		_ = res.Body.Close()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var asked *askedError
	switch {
	case errors.As(err, &asked):
		setError(res, http.StatusOK, id, asked.Error())
	case err != nil:
		setError(res, http.StatusBadGateway, id, err.Error())
	default:
		setJSON(res, answer)
	}
	return nil
}

// answerIn reads an event stream until the response to the request with the id is there. Notifications before it are dropped.
func answerIn(res *http.Response, id json.RawMessage) ([]byte, error) {
	if encoding := res.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, errors.New("the MCP server's event stream is compressed, though nobody asked for that")
	}
	events := eventScanner{body: res.Body, max: maxAnswer}
	for {
		data, err := events.next()
		switch {
		case errors.Is(err, errEventTooLong):
			return nil, errAnswerTooLong
		case err != nil:
			return nil, errors.New("the MCP server's event stream ended without an answer")
		}
		for _, m := range messages(data) {
			if found, err := isAnswer(m, id); found || err != nil {
				return bytes.Clone(m), err
			}
		}
	}
}

var errAnswerTooLong = fmt.Errorf("the MCP server's answer is longer than %d MiB, the most that this gateway turns into JSON", maxAnswer>>20)

// askedError says that the MCP server wants something of the client before it answers.
type askedError struct{ method string }

func (e *askedError) Error() string {
	return fmt.Sprintf("the MCP server asks for %s, which cannot be passed on to a client that does not accept event streams", e.method)
}

// messages takes the data of an event apart: one message, or several as MCP 2025-03-26 allows.
func messages(data []byte) (all []json.RawMessage) {
	data = bytes.TrimSpace(data)
	if bytes.HasPrefix(data, []byte("[")) {
		_ = json.Unmarshal(data, &all) // what is no JSON has no answer in it
		return all
	}
	return []json.RawMessage{data}
}

// isAnswer says whether a message of the MCP server answers the request with the id. It fails when it is a request that somebody would have to answer.
func isAnswer(m, id json.RawMessage) (bool, error) {
	var head struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Error  json.RawMessage `json:"error"`
	}
	if json.Unmarshal(m, &head) != nil {
		return false, nil //nolint:nilerr // an event without a message, as streams may begin with
	}
	switch {
	case head.Method == "ping": // the server looks whether the stream is alive
		return false, nil
	case head.Method != "" && isID(head.ID):
		if !plainMethod(head.Method) {
			head.Method = "something"
		}
		return false, &askedError{head.Method}
	case head.Method != "":
		return false, nil
	}
	nobodys := len(head.Error) > 0 && !isID(head.ID) // the server could not make out the id
	return nobodys || sameID(head.ID, id), nil
}

// setJSON gives a response a JSON body in place of its own, which is closed already.
func setJSON(res *http.Response, body []byte) {
	res.Header.Set("Content-Type", mediaJSON)
	res.Header.Del("Cache-Control") // was said of the stream
	res.Header.Del("X-Accel-Buffering")
	res.Header.Del("Content-Encoding")
	setBody(res, body)
}

func setBody(res *http.Response, body []byte) {
	res.Header.Del("Transfer-Encoding")
	res.Header.Set("Content-Length", strconv.Itoa(len(body)))
	res.Body = io.NopCloser(bytes.NewReader(body))
	res.ContentLength, res.TransferEncoding, res.Trailer = int64(len(body)), nil, nil
}

// setError gives a response a JSON-RPC error (JSON-RPC 2.0, section 5.1) in place of its own body, which is closed already.
func setError(res *http.Response, status int, id json.RawMessage, text string) {
	body, _ := json.Marshal(newRPCError(id, rpcInternalError, text)) // of an id that is known to be JSON
	res.StatusCode, res.Status = status, fmt.Sprintf("%d %s", status, http.StatusText(status))
	setJSON(res, body)
}
