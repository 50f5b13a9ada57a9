//go:build unix

package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// secrets are what the nodes read from files. Whoever has the vault's key and the database has everything, so in earnest they lie apart.
type secrets struct {
	database string // the password of the gateway's role
	client   string // of the gateway at the provider
}

// makeSecrets reads the secrets of the directory, and makes those that are not there, for this user alone to read.
func makeSecrets(dir string) (s secrets, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's own user must get through to its part of it
		return s, err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	if _, err := secretFile(filepath.Join(dir, "vault.key"), base64.StdEncoding.EncodeToString(key)); err != nil {
		return s, err
	}
	if s.database, err = secretFile(filepath.Join(dir, "database.password"), rand.Text()); err != nil {
		return s, err
	}
	s.client, err = secretFile(filepath.Join(dir, "client.secret"), rand.Text())
	return s, err
}

// secretFile reads a secret, or writes it where there is none.
func secretFile(path, secret string) (string, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		content, err := os.ReadFile(path)
		if err == nil && len(content) == 0 {
			err = fmt.Errorf("%s is empty: delete its directory to begin anew", path)
		}
		return strings.TrimSpace(string(content)), err
	}
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(secret)
	return secret, errors.Join(err, f.Close())
}
