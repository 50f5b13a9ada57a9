//go:build slow

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
)

// chore is work of operators on Caddy's admin endpoint that takes long.
type chore struct {
	method, path string

	// judge says what is wrong with a whole answer.
	judge func(answer []byte) error
}

// allChores are those of a vault that is looked after.
var allChores = []chore{
	{http.MethodPost, "rekey", func([]byte) error { return nil }},
	{http.MethodGet, "backup", func(answer []byte) error {
		if len(answer) == 0 {
			return fmt.Errorf("an empty backup")
		}
		return nil
	}},
	{http.MethodPost, "compact", worked(func(json.RawMessage) error { return nil })},
	{http.MethodGet, "verify", worked(func(result json.RawMessage) error {
		var report struct{ Faults []json.RawMessage }
		if err := json.Unmarshal(result, &report); err != nil || report.Faults == nil || len(report.Faults) > 0 {
			return fmt.Errorf("%w, %s", err, result)
		}
		return nil
	})},
}

// worked judges an answer in lines by its result.
func worked(judge func(result json.RawMessage) error) func([]byte) error {
	return func(answer []byte) error {
		var last operator.Work
		for lines := json.NewDecoder(bytes.NewReader(answer)); ; {
			var line operator.Work
			if err := lines.Decode(&line); err == io.EOF {
				break
			} else if err != nil {
				return err
			}
			last = line
		}
		if last.Error != "" || last.Result == nil {
			return fmt.Errorf("%q is no result", answer[max(0, len(answer)-1000):])
		}
		return judge(last.Result)
	}
}

// findChores finds out which there are.
func (s *siege) findChores() {
	s.t.Helper()
	status, text, err := s.admin(http.MethodGet, "openapi.json", "")
	var doc struct{ Paths map[string]json.RawMessage }
	if err == nil {
		err = json.Unmarshal([]byte(text), &doc)
	}
	if status != http.StatusOK || err != nil {
		s.t.Fatalf("openapi.json: %d %v", status, err)
	}
	for _, c := range allChores {
		if doc.Paths["/"+c.path] == nil {
			s.t.Logf("there is no %s %s", c.method, c.path)
			continue
		}
		s.chores = append(s.chores, c)
	}
}

// do does a chore, and judges the answer where there is a whole one.
func (s *siege) do(c chore) {
	status, text, err := s.admin(c.method, c.path, "")
	switch {
	case err == nil && (status == http.StatusOK || status == http.StatusAccepted):
		if err := c.judge([]byte(text)); err != nil {
			s.fail("%s: %v", c.path, err)
		}
		s.count("chore: " + c.path)
	case s.falling.Load():
		s.count("chore: " + c.path + " cut off")
	default:
		s.fail("%s: %d %s %v", c.path, status, text[:min(len(text), 1000)], err)
	}
}

// admin asks the gateway on Caddy's admin endpoint.
func (s *siege) admin(method, path, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, s.w.AdminURL()+"/oauth_proxy/"+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	s.loading.RLock()
	defer s.loading.RUnlock()
	resp, err := s.office.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}
