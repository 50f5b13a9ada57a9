package mcpfilter

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// maxAnswer is how much of an answer, or of an event of a stream, is kept in memory to look it through.
const maxAnswer = 4 << 20

// prunes reports whether lists may come back for a request that a policy has something to say of: to one that asks for them, and on streams that
// are opened again.
func (x *exchange) prunes(method string) bool {
	if len(x.proxy.Policy.Rules) == 0 {
		return false
	}
	if method != http.MethodPost {
		return method == http.MethodGet
	}
	return slices.ContainsFunc(x.body.contents().messages, func(m message) bool { return slices.Contains(listMethods, m.method) })
}

// offers reports whether the caller may be told of something, because a call of it would pass.
func (x *exchange) offers(target Target, name string) bool {
	policy := &x.proxy.Policy
	return !policy.restricts(target) || plainName(target, name) == nil && policy.judge(x.session, target, name).allowed()
}

// prune takes from a response what its lists name that the caller may not use.
func (x *exchange) prune(method string, res *http.Response) error {
	if res.StatusCode < 200 || res.StatusCode > 299 || !x.prunes(method) {
		return nil
	}
	if encoding := strings.Join(res.Header["Content-Encoding"], ", "); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return fmt.Errorf("%w: it is encoded as %q, which nobody asked for", errIllegible, encoding)
	}
	switch {
	case isEventStream(res.Header):
		res.Body = rewriteEvents(res.Body, maxAnswer, x.pruneEvent)
		res.ContentLength = -1
		res.Header.Del("Content-Length")
		return nil
	case isJSON(res.Header):
		return x.pruneAnswer(res)
	case method != http.MethodPost && (mediaType(res.Header) != "" || res.Header["Content-Type"] == nil):
		return nil // a stream says that it is one
	case res.StatusCode == http.StatusAccepted:
		return nil // the answer comes on a stream; clients do not read this one
	}
	if n, _ := io.ReadFull(res.Body, make([]byte, 1)); n > 0 { // an error comes again when it is read on
		return fmt.Errorf("%w: its Content-Type is %q", errIllegible, res.Header["Content-Type"])
	}
	return nil
}

// pruneEvent prunes the data of an event. What has no bracket is no message.
func (x *exchange) pruneEvent(data []byte) ([]byte, error) {
	if !bytes.ContainsAny(data, "{[") {
		return data, nil
	}
	return pruneLists(data, x.offers)
}

func (x *exchange) pruneAnswer(res *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if closing := res.Body.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("read the MCP server's answer: %w", err)
	}
	if len(body) > maxAnswer {
		return fmt.Errorf("%w: it is longer than %d MiB", errIllegible, maxAnswer>>20)
	}
	pruned := body
	if len(body) > 0 {
		if pruned, err = pruneLists(body, x.offers); err != nil {
			return err
		}
	}
	if len(pruned) != len(body) {
		for _, name := range []string{"Etag", "Digest", "Content-Digest", "Repr-Digest", "Content-Md5"} {
			res.Header.Del(name)
		}
	}
	setBody(res, pruned)
	return nil
}

// bypassed reports whether reverse_proxy sent the request with another transport than ours, so that its lists are whole.
func (g *guard) bypassed() bool {
	if len(g.filter.proxy.Policy.Rules) == 0 || g.x.upstreamHost != "" {
		return false
	}
	repl, ok := g.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return false
	}
	_, proxied := repl.GetString("http.reverse_proxy.upstream.hostport")
	return proxied
}
