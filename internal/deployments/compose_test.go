package deployments

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// compose loads a file as docker compose does, which knows all fields and looks whether networks, volumes, secrets and services that are named exist.
func compose(ctx context.Context, dir, text string, environment types.Mapping) (*types.Project, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return loader.LoadWithContext(ctx, types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: "compose.yaml", Content: []byte(text)}},
		Environment: environment,
	})
}

// checkCompose finds what each part of the file may say, and all of it together with the files beside it may not.
func checkCompose(t *testing.T, dir, text string, project *types.Project) error {
	t.Helper()
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	need := needsOf(t, dir)
	gateways := 0
	for name, service := range project.Services {
		if service.Build != nil {
			gateways++
			if _, err := os.Stat(filepath.Join(service.Build.Context, service.Build.Dockerfile)); err != nil {
				fault("%s: there is no Dockerfile, %w", name, err)
			}
			for _, variable := range need.variables {
				if service.Environment[variable] == nil || *service.Environment[variable] == "" {
					fault("%s: the Caddyfile wants %s", name, variable)
				}
			}
			got := make([]string, 0, len(service.Secrets))
			for _, s := range service.Secrets {
				got = append(got, s.Source)
			}
			slices.Sort(got)
			if !slices.Equal(got, need.secrets) {
				fault("%s: it has the secrets %v, its Caddyfile wants %v", name, got, need.secrets)
			}
			if len(service.CapAdd) != 0 || !slices.Equal(service.CapDrop, []string{"ALL"}) || !service.ReadOnly || service.User != "10001:10001" {
				fault("%s may do more than it needs", name)
			}
			if service.HealthCheck == nil {
				fault("%s: nobody asks how it is", name)
			}
		}
		if service.HealthCheck != nil {
			for _, word := range service.HealthCheck.Test {
				if _, path, ok := strings.Cut(word, "http://127.0.0.1:8080"); ok && !endpoint(t, path) {
					fault("%s: docs/endpoints.md does not know %s", name, path)
				}
			}
		}
		for _, v := range service.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				fault("%s: %s is mounted from nowhere, and Docker would make a directory of it: %w", name, v.Target, err)
			}
		}
		for on, d := range service.DependsOn {
			if d.Condition == types.ServiceConditionHealthy && project.Services[on].HealthCheck == nil {
				fault("%s waits for the health of %s, which nobody asks for", name, on)
			}
		}
	}
	if gateways == 0 {
		fault("there is no gateway")
	}
	for name, secret := range project.Secrets {
		if made := groups(`^# .*\bsecrets/([\w-]+)`, text); !strings.HasSuffix(secret.File, "/secrets/"+name) || !slices.Contains(made, name) {
			fault("secret %s: the file's head does not say how to make %s", name, secret.File)
		}
	}
	return errors.Join(errs...)
}

// surroundings are what the files want of the shell's environment.
var surroundings = map[string]types.Mapping{
	cluster: {"OKTA_CLIENT_ID": "0oa1example"},
	single:  {"GITHUB_CLIENT_ID": "Iv1.example"},
}

func TestComposeTakesTheFiles(t *testing.T) {
	t.Parallel()
	for dir, environment := range surroundings {
		text := read(t, dir, "compose.yaml")
		project, err := compose(t.Context(), dir, text, environment)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		if err := checkCompose(t, dir, text, project); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		if _, err := compose(t.Context(), dir, text, nil); err == nil || !strings.Contains(err.Error(), "the client id of the gateway at the provider") {
			t.Errorf("%s without its environment: %v", dir, err)
		}
	}
}

func TestMistakesInComposeFilesAreFound(t *testing.T) {
	t.Parallel()
	for dir, mutations := range map[string][]mutation{
		cluster: {
			{"a field that is none", "read_only: true", "readonly: true", "readonly"},
			{"a field twice", "  cap_drop: [ALL]\n", "  cap_drop: [ALL]\n  cap_drop: []\n", "cap_drop"},
			{"text for a list", "cap_drop: [ALL]", "cap_drop: ALL", "cap_drop"},
			{"no duration", "stop_grace_period: 60s", "stop_grace_period: a minute", "stop_grace_period"},
			{"a network that is none", "networks: [front, back]", "networks: [front, rear]", "rear"},
			{"a volume that is none", "certificates:/data", "certificate:/data", "certificate"},
			{"a secret that is none", "secrets: [database-password]", "secrets: [password]", "password"},
			{"a service that is none", "    postgres:\n      condition", "    database:\n      condition", "database"},
			{"a secret that the Caddyfile wants", "secrets: [vault-key, ", "secrets: [", "its Caddyfile wants"},
			{"a secret nobody is told to make", "> secrets/vault-key", "> vault-key", "does not say how to make"},
			{"a file that is none", "./balancer.Caddyfile", "./Balancer.Caddyfile", "mounted from nowhere"},
			{"a route that is none", "8080/oauth/ready", "8080/oauth/readyz", "does not know /oauth/readyz"},
			{"a variable that the Caddyfile wants", "    DATABASE:", "    DATABASES:", "the Caddyfile wants DATABASE"},
			{"a capability", "cap_drop: [ALL]", "cap_drop: [ALL]\n  cap_add: [NET_ADMIN]", "may do more"},
			{"no such context", "build: .", "build: ./image", "no Dockerfile"},
		},
		single: {
			{"a field that is none", "    restart:", "    restarts:", "restarts"},
			{"a port that is none", `"443:443/udp"`, `"443:443/quic"`, "quic"},
			{"a volume that is none", "- state:/var", "- data:/var", "data"},
			{"a file that is none", "./Caddyfile:", "./caddyfile:", "mounted from nowhere"},
			{"a variable that the Caddyfile wants", "GITHUB_CLIENT_ID: ", "CLIENT_ID: ", "the Caddyfile wants GITHUB_CLIENT_ID"},
			{"a file that can be written", "    read_only: true\n", "", "may do more"},
		},
	} {
		for _, m := range mutations {
			t.Run(dir+", "+m.name, func(t *testing.T) {
				t.Parallel()
				text := m.apply(t, read(t, dir, "compose.yaml"))
				project, err := compose(t.Context(), dir, text, surroundings[dir])
				if err == nil {
					err = checkCompose(t, dir, text, project)
				}
				if err == nil || !strings.Contains(err.Error(), m.want) {
					t.Errorf("%v: that does not say %q", err, m.want)
				}
			})
		}
	}
}
