package mcpfilter

import (
	"net/http"
	"time"
)

// Served is one request that is over, for metrics.
type Served struct {
	// Outcome is the decision that the audit trail tells, but OutcomeFailed where the answer was no good.
	Outcome Outcome

	// Method is one of Methods.
	Method Method

	// Took is how long it took until the end of its answer; zero for one that waits for whatever comes: a GET, or subscriptions/listen.
	Took time.Duration
}

// Outcome is what became of a request. Its text is a word.
type Outcome uint8

// The outcomes, in the order of OutcomeNames.
const (
	OutcomeAllowed Outcome = iota
	OutcomeDenied
	OutcomeStepUp
	OutcomeUnauthenticated
	OutcomeRefused
	OutcomeFailed // 5xx, or the answer broke off: the gateway, the provider or the MCP server is out of order
)

// OutcomeNames are the words for outcomes.
var OutcomeNames = [...]string{decisionAllowed, decisionDenied, decisionStepUp, decisionUnauthenticated, decisionRefused, "failed"}

// Method is what a request is, as an index of MethodNames.
type Method uint8

// MethodNames are the methods that are told apart: those of MCP in both its eras, the HTTP methods of requests without a message, what label says of
// a body without one method, and what stands for all others and for bodies that were not read.
var MethodNames = [...]string{
	"other", "unread", http.MethodGet, "subscriptions/listen",
	http.MethodDelete, methodBatch, methodResponse, methodUnknown,
	"initialize", "ping", "server/discover",
	"tools/list", "tools/call", "resources/list", "resources/templates/list", "resources/read", "resources/subscribe", "resources/unsubscribe",
	"prompts/list", "prompts/get", "completion/complete", "logging/setLevel", "roots/list", "sampling/createMessage", "elicitation/create",
	"tasks/get", "tasks/list", "tasks/result", "tasks/cancel", "tasks/update",
	"notifications/initialized", "notifications/cancelled", "notifications/progress", "notifications/roots/list_changed",
}

// The first of MethodNames. The zero one stands for all that are not told apart.
const (
	_ Method = iota
	methodUnread
	methodGet
	methodListen
)

var methodIndex = func() map[string]Method {
	index := make(map[string]Method, len(MethodNames))
	for i, name := range MethodNames {
		index[name] = Method(i)
	}
	return index
}()

// served tells of a request that is over.
func (f *Filter) served(a *audited, r *http.Request, httpMethod string, err error) {
	if f.proxy.Served == nil {
		return
	}
	s := Served{Outcome: a.outcome(r, err), Method: a.method(httpMethod)}
	if s.Method != methodGet && s.Method != methodListen {
		s.Took = time.Since(a.began)
	}
	f.proxy.Served(s)
}

// streams tells of an event stream that begins or ends.
func (f *Filter) streams(x *exchange, change int) {
	if x.stream && f.proxy.Streams != nil {
		f.proxy.Streams(change)
	}
}

// outcome is the decision, unless the answer was no good. A client that left before the end had no such answer.
func (a *audited) outcome(r *http.Request, err error) Outcome {
	brokenOff := err != nil && a.status != 0 && r.Context().Err() == nil && (a.x == nil || !a.x.cut.Load())
	if brokenOff || a.answered(err) >= http.StatusInternalServerError {
		return OutcomeFailed
	}
	switch a.decision() {
	case decisionAllowed:
		return OutcomeAllowed
	case decisionDenied:
		return OutcomeDenied
	case decisionStepUp:
		return OutcomeStepUp
	case decisionUnauthenticated:
		return OutcomeUnauthenticated
	default:
		return OutcomeRefused
	}
}

// method is what the request is, as far as it was read.
func (a *audited) method(httpMethod string) Method {
	name := httpMethod
	if httpMethod == http.MethodPost {
		if a.x == nil || a.x.method == "" {
			return methodUnread
		}
		name = a.x.method
	}
	return methodIndex[name]
}
