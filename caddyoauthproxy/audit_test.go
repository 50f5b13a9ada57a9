package caddyoauthproxy

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// TestLineOfAnEventHasWhatItsJSONHas holds the log against the audit trail: whoever has one has the other.
func TestLineOfAnEventHasWhatItsJSONHas(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	for _, e := range []*tokenstore.Event{
		{Meta: tokenstore.Meta{ID: "id"}, Time: at, Type: "grant.ended", Outcome: tokenstore.OutcomeOK, Actor: tokenstore.Actor{Kind: tokenstore.ActorGateway}},
		{
			Meta: tokenstore.Meta{ID: "id"}, Time: at, Type: "token.issued", Outcome: tokenstore.OutcomeRefused,
			Actor:  tokenstore.Actor{Kind: tokenstore.ActorClient, ID: "gateway_1", Label: `<Claude> & "co"`},
			UserID: "u", User: "ada@example.test", ClientID: "gateway_1", Client: "Claude", Proxy: "jira", Provider: "okta", Grant: "g", Account: "a", Consent: "c", JTI: "j",
			Address: "192.0.2.1", Reason: "because", Details: map[string]string{"grant_type": "refresh_token", "expires": "2026-01-02T04:04:05Z", "by": "é"},
		},
	} {
		text, err := zapcore.NewJSONEncoder(zapcore.EncoderConfig{}).EncodeEntry(zapcore.Entry{}, eventFields(e))
		if err != nil {
			t.Fatal(err)
		}
		var line, stored map[string]any
		if err := json.Unmarshal(text.Bytes(), &line); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		want, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(want, &stored); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(line, stored) {
			t.Errorf("the line is %s; the trail has %s", text, want)
		}
	}
}

func BenchmarkEventFields(b *testing.B) {
	e := &tokenstore.Event{
		Meta: tokenstore.Meta{ID: "id"}, Time: time.Now(), Type: "token.issued", Outcome: tokenstore.OutcomeOK,
		Actor:  tokenstore.Actor{Kind: tokenstore.ActorClient, ID: "gateway_1", Label: "Claude"},
		UserID: "u", User: "ada@example.test", ClientID: "gateway_1", Client: "Claude", Proxy: "jira", Provider: "okta", Grant: "g", Account: "a", Consent: "c", JTI: "j",
		Address: "192.0.2.1", Details: map[string]string{"grant_type": "refresh_token", "expires": "2026-01-02T04:04:05Z"},
	}
	encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{})
	b.ReportAllocs()
	for b.Loop() {
		text, err := encoder.EncodeEntry(zapcore.Entry{}, eventFields(e))
		if err != nil {
			b.Fatal(err)
		}
		text.Free()
	}
}
