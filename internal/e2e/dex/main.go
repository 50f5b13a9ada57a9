// Command dex runs the identity provider of that name for the tests: its own server with its own login form and approval page, one
// client, and everything in memory. It is a module of its own, because dex brings more modules than the plugin should ever name.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	gosundheit "github.com/AppsFlyer/go-sundheit"
	"github.com/dexidp/dex/server"
	"github.com/dexidp/dex/server/signer"
	"github.com/dexidp/dex/storage"
	"github.com/dexidp/dex/storage/memory"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"
)

// options are what the test says, as JSON, in one argument.
type options struct {
	Port         int
	Issuer       string
	ClientID     string
	ClientSecret string
	RedirectURI  string
	TokenSeconds int
	Users        []struct{ Name, Password, FullName, Email string }
}

func main() {
	flag.Parse()
	if err := run(flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until the standard input ends, as it does with the process that started this one.
func run(arg string) error {
	var o options
	if err := json.Unmarshal([]byte(arg), &o); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	store, err := fill(o, memory.New(log), log)
	if err != nil {
		return err
	}
	life := time.Duration(o.TokenSeconds) * time.Second
	keys, err := (&signer.LocalConfig{KeysRotationPeriod: "6h"}).Open(context.Background(), store, life, time.Now, log)
	if err != nil {
		return err
	}
	// Rotation on, and no time in which a refresh token that was replaced is forgiven.
	refresh, err := server.NewRefreshTokenPolicy(log, false, "", "", "0s")
	if err != nil {
		return err
	}
	dex, err := server.NewServer(context.Background(), server.Config{
		Issuer: o.Issuer, Storage: store, Signer: keys, IDTokensValidFor: life, RefreshTokenPolicy: refresh,
		Logger: log, PrometheusRegistry: prometheus.NewRegistry(), HealthChecker: gosundheit.New(),
	})
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return http.ListenAndServe(fmt.Sprintf("127.0.0.1:%d", o.Port), dex)
}

// fill gives the storage the client, the users and the form to log in with.
func fill(o options, store storage.Storage, log *slog.Logger) (storage.Storage, error) {
	passwords := make([]storage.Password, 0, len(o.Users))
	for _, u := range o.Users {
		hash, err := bcrypt.GenerateFromPassword([]byte(u.Password), bcrypt.DefaultCost)
		if err != nil {
			return nil, err
		}
		passwords = append(passwords, storage.Password{
			Email: u.Email, Hash: hash, Username: u.Name, PreferredUsername: u.Name, Name: u.FullName, UserID: "id-of-" + u.Name,
		})
	}
	store = storage.WithStaticPasswords(store, passwords, log)
	store = storage.WithStaticConnectors(store, []storage.Connector{{ID: server.LocalConnector, Type: server.LocalConnector, Name: "Email"}})
	return storage.WithStaticClients(store, []storage.Client{{
		ID: o.ClientID, Secret: o.ClientSecret, Name: "MCP gateway", RedirectURIs: []string{o.RedirectURI},
	}}), nil
}
