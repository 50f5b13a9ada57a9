package caddyoauthproxy

import (
	"cmp"
	"encoding/json"
	"time"

	"go.uber.org/zap"
)

// defaultLoginTTL is that of the authorization server.
const defaultLoginTTL = 5 * time.Minute

// keyNames are the placeholders of encryption keys, or the names of their sources, in order.
func keyNames(elements []json.RawMessage) []string {
	names := make([]string, 0, len(elements))
	for _, element := range elements {
		var name string
		if json.Unmarshal(element, &name) != nil {
			var settings struct {
				Source string `json:"source"`
			}
			_ = json.Unmarshal(element, &settings) // was checked
			name = settings.Source
		}
		names = append(names, name)
	}
	return names
}

// messageTime is how long a consent page is good for, and what is begun on it.
func (a *App) messageTime() time.Duration {
	return cmp.Or(time.Duration(a.LoginTTL), defaultLoginTTL) + time.Minute
}

// keysFailed logs that the vault's keys are not as they should be.
func (a *App) keysFailed(err error) {
	a.log.Error("the vault's keys", zap.Error(err))
}
