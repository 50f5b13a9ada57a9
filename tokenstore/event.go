package tokenstore

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
)

// Event is one entry of the audit trail: an act that matters to security, or the refusal of one. Make it with Vault.NewEvent, and hand it to
// RecordEvent or Vault.Note. It never holds a secret, and what strangers wrote in it is cut and cleaned of control characters before it is kept.
type Event struct {
	Meta

	// Time is when it happened, to the millisecond.
	Time time.Time `json:"time"`

	// Type is what happened, one of EventTypes.
	Type string `json:"type"`

	// Outcome is OutcomeOK or OutcomeRefused.
	Outcome string `json:"outcome"`

	// Actor is who did it.
	Actor Actor `json:"actor"`

	// UserID is the user whom it concerns, and User how people know them; likewise ClientID and Client.
	UserID   string `json:"user_id,omitempty"`
	User     string `json:"user,omitempty"`
	ClientID string `json:"client_id,omitempty"`
	Client   string `json:"client,omitempty"`

	// Proxy and Provider are names of the configuration.
	Proxy    string `json:"proxy,omitempty"`
	Provider string `json:"provider,omitempty"`

	// Grant and Account are ids.
	Grant   string `json:"grant,omitempty"`
	Account string `json:"account,omitempty"`

	// Consent is the id of the event of the consent that it goes back to.
	Consent string `json:"consent,omitempty"`

	// JTI is the id of the gateway token that was issued.
	JTI string `json:"jti,omitempty"`

	// Address is the network address of the request that it happened in, empty where there was none.
	Address string `json:"address,omitempty"`

	// Reason says in words why.
	Reason string `json:"reason,omitempty"`

	// Details is what else there is to say, by names that docs/audit.md lists for each type.
	Details map[string]string `json:"details,omitempty"`
}

// The outcomes of events.
const (
	OutcomeOK      = "ok"
	OutcomeRefused = "refused"
)

// Actor is who did something.
type Actor struct {
	// Kind is one of the kinds of actors.
	Kind string `json:"kind"`

	// ID is the user's, client's or operator's id, empty where there is none, and Label how people know them.
	ID    string `json:"id,omitempty"`
	Label string `json:"label,omitempty"`
}

// The kinds of actors.
const (
	ActorClient   = "client"   // a chatbot
	ActorUser     = "user"     // somebody in a browser, or a script with a session token
	ActorOperator = "operator" // somebody on an admin endpoint
	ActorGateway  = "gateway"  // the gateway by itself
)

type actorKey struct{}

// WithActor says who does what is done with ctx.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorFrom is who does what is done with ctx; the gateway itself where nobody said.
func ActorFrom(ctx context.Context) Actor {
	if a, ok := ctx.Value(actorKey{}).(Actor); ok {
		return a
	}
	return Actor{Kind: ActorGateway}
}

type addressKey struct{}

// WithAddress says which network address the request has that ctx belongs to.
func WithAddress(ctx context.Context, address string) context.Context {
	return context.WithValue(ctx, addressKey{}, address)
}

// NewEvent begins an event that happens now, with the actor and the address of ctx. Its id may be told before it is recorded.
func (v *Vault) NewEvent(ctx context.Context, eventType string) *Event {
	at := v.now().UTC().Truncate(time.Millisecond)
	address, _ := ctx.Value(addressKey{}).(string)
	return &Event{
		Meta: Meta{ID: newEventID(at)}, Time: at, Type: eventType, Outcome: OutcomeOK,
		Actor: ActorFrom(ctx), Address: address,
	}
}

// Refused makes the event one of something that was refused, for a reason.
func (e *Event) Refused(reason string) *Event {
	e.Outcome, e.Reason = OutcomeRefused, reason
	return e
}

// RecordEvent is the step of a Commit that records an event together with what the commit changes: either both are durable or none is.
// A vault without an audit trail leaves it out.
func RecordEvent(e *Event) Write { return Write{OpInsert, e} }

func (e *Event) layout() layout { return layout{kind: KindEvent, use: useGrant} }

type plainEvent Event // without the methods

// MarshalJSON puts the id first.
func (e *Event) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		ID string `json:"id"`
		*plainEvent
	}{e.ID, (*plainEvent)(e)})
}

// UnmarshalJSON is the reverse of MarshalJSON.
func (e *Event) UnmarshalJSON(data []byte) error {
	wire := struct {
		ID string `json:"id"`
		*plainEvent
	}{plainEvent: (*plainEvent)(e)}
	if err := json.Unmarshal(data, &wire); err != nil {
		return err
	}
	e.ID = wire.ID
	return nil
}

// Limits of the text in an event, in characters, and of its details.
const (
	maxEventText   = 256
	maxEventReason = 512
	maxDetails     = 16
)

// clean makes what strangers wrote fit to be kept.
func (e *Event) clean() {
	for _, s := range []*string{
		&e.Type, &e.Outcome, &e.Actor.Kind, &e.Actor.ID, &e.Actor.Label, &e.UserID, &e.User, &e.ClientID, &e.Client, &e.Proxy, &e.Provider,
		&e.Grant, &e.Account, &e.Consent, &e.JTI, &e.Address,
	} {
		*s = printable(*s, maxEventText)
	}
	e.Reason = printable(e.Reason, maxEventReason)
	if len(e.Details) == 0 {
		e.Details = nil
		return
	}
	kept := make(map[string]string, len(e.Details))
	for name, value := range e.Details {
		if value = printable(value, maxEventText); value != "" && len(kept) < maxDetails {
			kept[printable(name, 64)] = value
		}
	}
	e.Details = kept
}

// printable replaces what could end a line, steer a terminal or reverse the direction of text, and cuts off what is too long.
func printable(s string, most int) string {
	if len(s) <= most && strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0 { // as nearly all is
		return s
	}
	var b strings.Builder
	n := 0
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if n++; n > most {
			b.WriteRune('…')
			break
		}
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp) {
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Ids of events order by time, the oldest first, because in that order they are chained: 26 characters of 2-7 and A-Z that stand for the
// milliseconds (6 bytes), a counter that keeps the order within one (4), and random bits (6). The counter is so large because where it begins anew, the order of a
// millisecond breaks.
var (
	idEncoding   = base32.NewEncoding("234567ABCDEFGHIJKLMNOPQRSTUVWXYZ").WithPadding(base32.NoPadding)
	eventCounter atomic.Uint32
)

func newEventID(at time.Time) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(max(at.UnixMilli(), 0))<<16)[:6]
	b = binary.BigEndian.AppendUint32(b, eventCounter.Add(1))
	return idEncoding.EncodeToString(append(b, random(6)...))
}

// eventTime is the time in an event's id, the zero time in what is none.
func eventTime(id string) time.Time {
	b, err := idEncoding.DecodeString(id)
	if err != nil || len(b) != 16 {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b) >> 16)).UTC()
}
