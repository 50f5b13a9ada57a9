// Package tracing adds spans to the trace that a request is part of. The tracer is that of the request's own span, which Caddy's tracing directive
// begins: there is no global one, and without that directive, or where the request is not sampled, nothing is done.
package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// scope is the instrumentation scope of all spans.
const scope = "github.com/caddy-oauth-proxy/caddy-oauth-proxy"

// Span is one span, or none. What it is told are names of the configuration, ids of records and words of this code: never a token, an address, or
// what a person or a program wrote.
type Span struct{ span trace.Span }

// Start begins a span within that of ctx, which may have ended. It is to be ended.
func Start(ctx context.Context, name string) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.SpanContext().IsSampled() {
		return ctx, Span{}
	}
	ctx, span := parent.TracerProvider().Tracer(scope).Start(ctx, name)
	return ctx, Span{span}
}

// Of is the span that ctx is in, none where that is not recorded.
func Of(ctx context.Context) Span {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		return Span{span}
	}
	return Span{}
}

// Set gives the span an attribute, under `oauth_proxy.`. An empty value is none.
func (s Span) Set(key, value string) {
	if s.span != nil && value != "" {
		s.span.SetAttributes(attribute.String("oauth_proxy."+key, value))
	}
}

// Mark gives the span an attribute that is true.
func (s Span) Mark(key string) {
	if s.span != nil {
		s.span.SetAttributes(attribute.Bool("oauth_proxy."+key, true))
	}
}

// Fail marks the span as failed, and says why in a word of this code.
func (s Span) Fail(why string) {
	if s.span != nil {
		s.span.SetStatus(codes.Error, why)
	}
}

// End ends the span.
func (s Span) End() {
	if s.span != nil {
		s.span.End()
	}
}

// Within returns ctx in the span of another: for work that a request began, and that outlives it.
func Within(ctx, other context.Context) context.Context {
	return trace.ContextWithSpan(ctx, trace.SpanFromContext(other))
}
