package caddyoauthproxy

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/operator"
	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

// verifiedBackup is what was found of a backup. What a Verification has beyond Whole is there when the keys of its vault were.
type verifiedBackup struct {
	Backup *tokenstore.Backup `json:"backup"`

	// Signed says that its vault has made it. Without the keys that is not known.
	Signed bool `json:"signed"`

	operator.Verification
}

// verifyBackup verifies a backup in this process.
func (c *call) verifyBackup(file string) error {
	if file == "" {
		return badUsage("--from is empty: name the file of the backup")
	}
	keys, err := c.backupKeys()
	if err != nil {
		return err
	}
	found, err := c.readBackup(file, keys)
	if err != nil {
		return err
	}
	err = c.print(found, func() error {
		signature := "not checked: give --config, whose keys open the backup"
		if found.Signed {
			signature = "good"
		}
		err := c.describe([][2]string{
			{"backup", file}, {"taken", moment(found.Backup.Taken)}, {"records", strconv.Itoa(found.Backup.Rows)}, {"sha-256", found.Backup.SHA256}, {"signature", signature},
		})
		if err != nil {
			return err
		}
		if !found.Signed {
			fmt.Fprintln(c.out, "\nThe file is whole; what is in it was not opened.")
			return nil
		}
		fmt.Fprintln(c.out)
		return c.printVerification(&found.Verification, "backup")
	})
	if err == nil && !found.Whole {
		err = errProblems
	}
	return err
}

// backupKeys are the keys of --config, none without it. Its vault need not be there.
func (c *call) backupKeys() ([]tokenstore.RootKey, error) {
	file := c.String("config")
	if file == "" {
		return nil, nil
	}
	app, err := readApp(file, c.String("adapter"))
	if err != nil {
		return nil, badUsage("--config: %w", err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: c.ctx})
	defer cancel()
	app.ctx = ctx
	module, _, unload, err := app.loadTarget(app.ownTarget())
	if err != nil {
		return nil, err
	}
	defer unload()
	asking, end := context.WithTimeout(c.ctx, openTimeout)
	defer end()
	keys, err := app.targetKeys(asking, module, app.EncryptionKeys)
	if err != nil {
		return nil, fmt.Errorf("encryption_key: %w", err)
	}
	return keys, nil
}

func (c *call) readBackup(file string, keys []tokenstore.RootKey) (*verifiedBackup, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	bar := c.progressBar()
	defer bar.end()
	if len(keys) == 0 {
		backup, err := tokenstore.CheckBackup(c.ctx, f, nil, bar.show)
		return &verifiedBackup{Backup: backup, Verification: operator.Verification{Whole: true}}, ofBackup(file, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	backup, report, err := tokenstore.VerifyBackup(c.ctx, f, info.Size(), keys, bar.show)
	if err != nil {
		return nil, ofBackup(file, err)
	}
	return &verifiedBackup{backup, true, operator.Verification{Whole: report.Whole(), Verification: report}}, nil
}
