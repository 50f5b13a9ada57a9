//go:build slow

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// chore is work of operators on Caddy's admin endpoint that takes long.
type chore struct {
	method, path string
	status       int // of an answer

	// judge reads an answer to its end, and says what is wrong with it.
	judge func(s *siege, answer io.Reader) error
}

var (
	rekeyChore   = chore{http.MethodPost, "rekey", http.StatusAccepted, judgeRekey}
	backupChore  = chore{http.MethodGet, "backup", http.StatusOK, judgeBackup}
	compactChore = chore{http.MethodPost, "compact", http.StatusOK, worked(judgeCompaction)}
	verifyChore  = chore{http.MethodGet, "verify", http.StatusOK, worked(judgeVerification)}

	// followRekey waits for the end of a rekey.
	followRekey = chore{http.MethodGet, "rekey?follow=true", http.StatusOK, worked(judgeRekeyed)}
)

// errWork is the error of work that says of itself that it has failed.
var errWork = errors.New("the work failed")

// judgeRekey wants a rekey that runs, or waits for messages by the old key to expire, and has met nothing damaged.
func judgeRekey(s *siege, answer io.Reader) error {
	var r tokenstore.Rekey
	if err := json.NewDecoder(answer).Decode(&r); err != nil {
		return err
	}
	switch {
	case r.State != tokenstore.RekeyRunning && r.State != tokenstore.RekeyWaiting, r.Began.IsZero(), r.DamagedRows > 0, r.Error != "" && !s.onPostgres:
		return fmt.Errorf("a rekey that was begun or goes on is %+v", r)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !r.Began.Equal(s.rekeyed) {
		s.rekeyed = r.Began
		s.counts["rekey begun"]++
	}
	return nil
}

// judgeRekeyed wants every row to be sealed anew.
func judgeRekeyed(_ *siege, result json.RawMessage) error {
	var r tokenstore.Rekey
	switch err := json.Unmarshal(result, &r); {
	case err != nil:
		return err
	case r.Error != "":
		return fmt.Errorf("%w: %s", errWork, r.Error)
	case r.State != tokenstore.RekeyDone && r.State != tokenstore.RekeyWaiting, r.DamagedRows > 0:
		return fmt.Errorf("a rekey came to %s", result)
	}
	return nil
}

// judgeBackup reads a backup to its trailer.
func judgeBackup(_ *siege, answer io.Reader) error {
	made, err := tokenstore.CheckBackup(context.Background(), answer, nil, nil)
	if err == nil && (made.Kinds[tokenstore.KindKeyring].Rows == 0 || made.Kinds[tokenstore.KindClient].Rows == 0) {
		err = fmt.Errorf("it has only %+v", made.Kinds)
	}
	return err
}

func judgeCompaction(_ *siege, result json.RawMessage) error {
	var c operator.Compaction
	if err := json.Unmarshal(result, &c); err != nil || c.Before <= 0 || c.After <= 0 {
		return fmt.Errorf("%s, %w", result, err)
	}
	return nil
}

func judgeVerification(_ *siege, result json.RawMessage) error {
	var v operator.Verification
	if err := json.Unmarshal(result, &v); err != nil || v.Verification == nil || !v.Whole || len(v.Faults) > 0 || len(v.Records) != len(tokenstore.Kinds()) {
		return fmt.Errorf("%s, %w", result, err)
	}
	return nil
}

// judgeNoFile wants compacting refused where there is no file.
func judgeNoFile(_ *siege, answer io.Reader) error {
	text, err := io.ReadAll(answer)
	if err == nil && !strings.Contains(string(text), "PostgreSQL gives free room back by itself") {
		err = fmt.Errorf("refused with %s", text)
	}
	return err
}

// worked judges an answer in lines by its result, which is in the last one.
func worked(judge func(s *siege, result json.RawMessage) error) func(*siege, io.Reader) error {
	return func(s *siege, answer io.Reader) error {
		var last operator.Work
		for lines := json.NewDecoder(answer); ; {
			var line operator.Work
			if err := lines.Decode(&line); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return err
			}
			if last.Error != "" || last.Result != nil {
				return fmt.Errorf("something follows on %+v", last)
			}
			last = line
		}
		switch {
		case last.Error != "":
			return fmt.Errorf("%w: %s", errWork, last.Error)
		case last.Result == nil:
			return errors.New("the last line is no result")
		}
		return judge(s, last.Result)
	}
}

// findChores takes all chores of a vault that is looked after, and fails the test where the gateway lacks one.
func (s *siege) findChores() {
	s.t.Helper()
	status, text, err := s.admin(http.MethodGet, "openapi.json", "")
	var doc struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &doc)
	}
	if status != http.StatusOK || err != nil {
		s.t.Fatalf("openapi.json: %d %v", status, err)
	}
	s.chores = []chore{rekeyChore, backupChore, compactChore, verifyChore}
	if s.onPostgres {
		s.chores[2].status, s.chores[2].judge = http.StatusConflict, judgeNoFile
	}
	for _, c := range s.chores {
		if doc.Paths["/"+c.path][strings.ToLower(c.method)] == nil {
			s.t.Fatalf("there is no %s %s", c.method, c.path)
		}
	}
}

// broken is an answer that knows whether it was cut off.
type broken struct {
	io.Reader
	err error
}

func (b *broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// do does a chore, and reports whether it was done. A whole answer is judged; one may be cut off, or say that it failed, only where something is killed.
func (s *siege) do(c chore) bool {
	mayFail := func(err error) bool {
		if s.falling.Load() {
			s.count("chore: " + c.path + " cut off")
		} else {
			s.fail("%s: %v", c.path, err)
		}
		return false
	}
	s.loading.RLock()
	defer s.loading.RUnlock()
	resp, err := s.ask(c.method, c.path, "")
	if err != nil {
		return mayFail(err)
	}
	defer resp.Body.Close()
	answer := &broken{Reader: resp.Body}
	if resp.StatusCode != c.status {
		text, _ := io.ReadAll(io.LimitReader(answer, 1000))
		err := fmt.Errorf("%d %s, not %d", resp.StatusCode, text, c.status)
		if resp.StatusCode < http.StatusInternalServerError {
			s.fail("%s: %v", c.path, err)
			return false
		}
		return mayFail(err)
	}
	switch err := c.judge(s, answer); {
	case answer.err != nil:
		return mayFail(answer.err)
	case errors.Is(err, errWork):
		return mayFail(err)
	case err != nil:
		s.fail("%s: %v", c.path, err)
		return false
	}
	s.count("chore: " + c.path)
	return true
}

// mustRekey waits until the rekey that was begun last, if any, has sealed every row, and tries again where it says that it was held up.
func (s *siege) mustRekey() {
	s.mu.Lock()
	begun := !s.rekeyed.IsZero()
	s.mu.Unlock()
	if !begun {
		return
	}
	for range 10 {
		var failed error
		c := followRekey
		c.judge = func(s *siege, answer io.Reader) error {
			err := followRekey.judge(s, answer)
			if errors.Is(err, errWork) {
				failed, err = err, nil
			}
			return err
		}
		if s.do(c); failed == nil {
			return
		}
		s.t.Logf("rekey: %v", failed)
		time.Sleep(time.Second)
	}
	s.fail("the rekey of %s does not come to its end", s.rekeyed)
}

// ask asks the gateway on Caddy's admin endpoint.
func (s *siege) ask(method, path, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, s.w.AdminURL()+"/oauth_proxy/"+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return s.office.Do(req)
}

// admin asks the same, and reads the answer.
func (s *siege) admin(method, path, body string) (int, string, error) {
	s.loading.RLock()
	defer s.loading.RUnlock()
	resp, err := s.ask(method, path, body)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}
