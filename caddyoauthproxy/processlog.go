package caddyoauthproxy

import (
	"slices"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// processLog returns a logger for what outlives configs. It writes to Caddy's default log as the config has it that runs at the time: the logger of the config that
// something began under writes to nobody once that config is gone.
func processLog(name string) *zap.Logger { return zap.New(processCore{}).Named(name) }

// processCore is a core of Caddy's default log.
type processCore struct{ fields []zapcore.Field }

func (processCore) core() zapcore.Core { return caddy.Log().Core() }

// Enabled implements zapcore.Core.
func (c processCore) Enabled(level zapcore.Level) bool { return c.core().Enabled(level) }

// With implements zapcore.Core.
func (c processCore) With(fields []zapcore.Field) zapcore.Core {
	return processCore{append(slices.Clip(c.fields), fields...)}
}

// Check implements zapcore.Core.
func (c processCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.core().With(c.fields).Check(entry, checked)
}

// Write implements zapcore.Core, for whoever writes without a check.
func (c processCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	return c.core().With(c.fields).Write(entry, fields)
}

// Sync implements zapcore.Core.
func (c processCore) Sync() error { return c.core().Sync() }
