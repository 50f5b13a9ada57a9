package caddyoauthproxy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// What a reader copies from examples/cluster holds together: one Caddyfile, and three ways to run it.
const (
	clusterDir = "../examples/cluster"
	deployDir  = clusterDir + "/deploy"
)

func readExample(t *testing.T, path ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// readYAML decodes all documents of a file. What stands there twice is an error.
func readYAML(t *testing.T, path string) (documents []map[string]any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(readExample(t, path)))
	for {
		var document map[string]any
		if err := d.Decode(&document); errors.Is(err, io.EOF) {
			return documents
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		documents = append(documents, document)
	}
}

// at goes down into decoded YAML, by names and indexes.
func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for i, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if step >= len(l) {
				t.Fatalf("nothing at %v", path[:i+1])
			}
			v = l[step]
		}
		if v == nil {
			t.Fatalf("nothing at %v", path[:i+1])
		}
	}
	return v
}

func TestCaddyfilesOfTheClusterAdapt(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		clusterDir + "/node.Caddyfile":     `"handler": "mcp_filter"`,
		clusterDir + "/balancer.Caddyfile": `"uri": "/oauth/ready"`,
		deployDir + "/Caddyfile":           `"handler": "mcp_filter"`,
		deployDir + "/balancer.Caddyfile":  `"uri": "/oauth/ready"`,
	} {
		got := adapt(t, readExample(t, path))
		if !strings.HasPrefix(got, "{") || !strings.Contains(got, want) {
			t.Errorf("%s: %s", path, got)
		}
		if strings.Contains(got, "mcp_filter") && !strings.Contains(got, `"module": "postgres"`) {
			t.Errorf("%s: nodes must share a vault:\n%s", path, got)
		}
	}
	if found, err := filepath.Glob(clusterDir + "/*Caddyfile*"); err != nil || len(found) != 2 {
		t.Errorf("%v, %v: this test knows of two", found, err)
	}
}

// YAML without schemas says nothing of misspelled names; but what nobody reads twice stays in step.
func TestKubernetesManifestsRunTheCaddyfileOfTheExample(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(deployDir + "/kubernetes/*.yaml")
	if err != nil || len(files) < 7 {
		t.Fatalf("%v, %v", files, err)
	}
	kinds := make(map[string]map[string]any)
	var names []any
	for _, path := range files {
		for _, document := range readYAML(t, path) {
			kinds[at(t, document, "kind").(string)] = document
			if filepath.Base(path) != "kustomization.yaml" {
				names = append(names, filepath.Base(path))
			}
		}
	}
	resources := at(t, kinds["Kustomization"], "resources").([]any)
	for _, name := range names {
		if !slices.Contains(resources, name) {
			t.Errorf("%s is not among the resources %v", name, resources)
		}
	}
	if got, want := at(t, kinds["ConfigMap"], "data", "Caddyfile"), readExample(t, deployDir, "Caddyfile"); got != want {
		t.Errorf("the Caddyfile in configmap.yaml is not that of the directory above:\n%s", got)
	}
	pod := at(t, kinds["Deployment"], "spec", "template", "spec")
	container := at(t, pod, "containers", 0)
	for _, c := range []struct{ got, want any }{
		{at(t, kinds["Deployment"], "spec", "strategy", "rollingUpdate", "maxUnavailable"), 0},
		{at(t, pod, "securityContext", "runAsNonRoot"), true},
		{at(t, pod, "securityContext", "seccompProfile", "type"), "RuntimeDefault"},
		{at(t, container, "securityContext", "allowPrivilegeEscalation"), false},
		{at(t, container, "securityContext", "readOnlyRootFilesystem"), true},
		{at(t, container, "securityContext", "capabilities", "drop", 0), "ALL"},
		{at(t, container, "readinessProbe", "httpGet", "path"), "/oauth/ready"},
		{at(t, container, "livenessProbe", "httpGet", "path"), "/oauth/live"},
		{at(t, container, "startupProbe", "httpGet", "path"), "/oauth/live"},
		{at(t, kinds["PodDisruptionBudget"], "spec", "maxUnavailable"), 1},
		{at(t, kinds["Service"], "spec", "sessionAffinity"), "None"},
	} {
		if c.got != c.want {
			t.Errorf("%v, want %v", c.got, c.want)
		}
	}
	for _, kind := range []string{"Service", "PodDisruptionBudget", "NetworkPolicy"} {
		if !strings.Contains(readExample(t, deployDir, "kubernetes", strings.ToLower(kind)+".yaml"), "app: oauth-gateway}") {
			t.Errorf("%s selects other pods", kind)
		}
	}
}

func TestContainersOfTheExampleHaveNoRights(t *testing.T) {
	t.Parallel()
	compose := readYAML(t, deployDir+"/compose.yaml")[0]
	upstreams := make([]string, 0, 3)
	for _, name := range []string{"gateway1", "gateway2", "gateway3"} {
		gateway := at(t, compose, "services", name)
		if at(t, gateway, "read_only") != true || at(t, gateway, "cap_drop", 0) != "ALL" || at(t, gateway, "user") == "0:0" || at(t, gateway, "security_opt", 0) != "no-new-privileges:true" {
			t.Errorf("%s may do too much: %v", name, gateway)
		}
		upstreams = append(upstreams, name+":8080")
	}
	if want := strings.Join(upstreams, " "); !strings.Contains(readExample(t, deployDir, "balancer.Caddyfile"), want) {
		t.Errorf("the balancer does not know %s", want)
	}
	if !regexp.MustCompile(`(?m)^USER 10001:10001$`).MatchString(readExample(t, deployDir, "Dockerfile")) {
		t.Error("the image runs as root")
	}
	if ignore := readExample(t, deployDir, ".dockerignore"); !strings.HasPrefix(ignore, "*\n") {
		t.Errorf("secrets may get into the image: %s", ignore)
	}
}

// Whatever stops a node waits for as long as the Caddyfile has it take, and 15 seconds for what is saved after that.
func TestNodesOfTheExampleAreGivenTheTimeToStop(t *testing.T) {
	t.Parallel()
	var config struct {
		Apps struct {
			HTTP struct {
				ShutdownDelay time.Duration `json:"shutdown_delay"`
				GracePeriod   time.Duration `json:"grace_period"`
			} `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal([]byte(adapt(t, readExample(t, deployDir, "Caddyfile"))), &config); err != nil {
		t.Fatal(err)
	}
	http := config.Apps.HTTP
	if http.ShutdownDelay == 0 || http.GracePeriod == 0 {
		t.Fatalf("%+v: a node leaves at once, or never", http)
	}
	need := http.ShutdownDelay + http.GracePeriod + 15*time.Second
	deployment := readYAML(t, deployDir+"/kubernetes/deployment.yaml")[0]
	compose := readYAML(t, deployDir+"/compose.yaml")[0]
	unit := regexp.MustCompile(`(?m)^TimeoutStopSec=(\S+)$`).FindStringSubmatch(readExample(t, deployDir, "caddy-oauth-proxy.service"))
	if unit == nil {
		t.Fatal("no TimeoutStopSec")
	}
	for name, text := range map[string]string{
		"deployment.yaml":           fmt.Sprintf("%ds", at(t, deployment, "spec", "template", "spec", "terminationGracePeriodSeconds")),
		"compose.yaml":              at(t, compose, "services", "gateway1", "stop_grace_period").(string),
		"caddy-oauth-proxy.service": unit[1],
	} {
		if d, err := time.ParseDuration(text); err != nil || d < need {
			t.Errorf("%s gives a node %s to stop, which takes up to %s", name, text, need)
		}
	}
	probe := at(t, deployment, "spec", "template", "spec", "containers", 0, "readinessProbe")
	if seen := at(t, probe, "periodSeconds").(int) * at(t, probe, "failureThreshold").(int); float64(seen) >= http.ShutdownDelay.Seconds() {
		t.Errorf("a node is gone (%s) before it is seen that it goes (%ds)", http.ShutdownDelay, seen)
	}
}

func TestEverySecretOfTheExampleIsProvidedEverywhere(t *testing.T) {
	t.Parallel()
	var want []string
	for _, m := range regexp.MustCompile(`\{file\.\{\$SECRETS:/run/secrets\}/([\w-]+)\}`).FindAllStringSubmatch(readExample(t, deployDir, "Caddyfile"), -1) {
		want = append(want, m[1])
	}
	if len(want) != 3 {
		t.Fatalf("secrets: %v", want)
	}
	compose := readYAML(t, deployDir+"/compose.yaml")[0]
	unit, deployment := readExample(t, deployDir, "caddy-oauth-proxy.service"), readExample(t, deployDir, "kubernetes/deployment.yaml")
	for _, name := range want {
		if at(t, compose, "secrets", name, "file") != "./secrets/"+name || !slices.Contains(at(t, compose, "services", "gateway1", "secrets").([]any), any(name)) {
			t.Errorf("compose.yaml lacks %s", name)
		}
		if !strings.Contains(unit, "\nLoadCredential="+name+":/etc/caddy-oauth-proxy/secrets/"+name+"\n") {
			t.Errorf("the unit lacks %s", name)
		}
		if !strings.Contains(deployment, " --from-file="+name) {
			t.Errorf("deployment.yaml does not tell how to make %s", name)
		}
	}
}

// What the examples ask for is what the gateway serves.
func TestProbesOfTheExampleAreEndpoints(t *testing.T) {
	t.Parallel()
	endpoints := readExample(t, "../docs/endpoints.md")
	var paths int
	err := filepath.WalkDir(clusterDir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) == ".go" {
			return err
		}
		for _, m := range regexp.MustCompile(`(?:path: |health_uri +|:8080)(/oauth/[\w/]+)`).FindAllStringSubmatch(readExample(t, path), -1) {
			paths++
			if !strings.Contains(endpoints, "`GET "+m[1]+"`") {
				t.Errorf("%s asks for %s, which docs/endpoints.md does not know", path, m[1])
			}
		}
		return nil
	})
	if err != nil || paths < 6 {
		t.Errorf("only %d probes were found, %v: the test is no good", paths, err)
	}
}

func TestUnitOfTheExampleIsOne(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		const what = "systemd-analyze is not installed; on Debian run: apt-get install systemd"
		if os.Getenv("CI") != "" {
			t.Fatal(what)
		}
		t.Skip(what)
	}
	// Caddy need not be installed here.
	unit := strings.ReplaceAll(readExample(t, deployDir, "caddy-oauth-proxy.service"), "=/usr/local/bin/caddy ", "=/bin/true ")
	path := filepath.Join(t.TempDir(), "caddy-oauth-proxy.service")
	if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", path).CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}
