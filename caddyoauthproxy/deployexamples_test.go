package caddyoauthproxy_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
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

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// What a reader copies from examples/cluster holds together: one Caddyfile, and three ways to run it. Whether the files are what Kubernetes and Docker Compose take is
// tested in internal/deployments.
const (
	clusterDir = "../examples/cluster"
	deployDir  = clusterDir + "/deploy"
	singleDir  = "../examples/deploy" // one gateway
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

// What nobody reads twice stays in step.
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

// One node leaves at once, but for requests under way.
func TestSingleGatewayIsGivenTheTimeToStop(t *testing.T) {
	t.Parallel()
	var config struct {
		Apps struct {
			HTTP struct {
				GracePeriod time.Duration `json:"grace_period"`
			} `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal([]byte(adapt(t, readExample(t, singleDir, "Caddyfile"))), &config); err != nil {
		t.Fatal(err)
	}
	need := config.Apps.HTTP.GracePeriod + 15*time.Second
	unit := regexp.MustCompile(`(?m)^TimeoutStopSec=(\S+)$`).FindStringSubmatch(readExample(t, singleDir, "caddy-oauth-proxy.service"))
	if unit == nil || need == 15*time.Second {
		t.Fatalf("TimeoutStopSec %v, grace_period %s", unit, config.Apps.HTTP.GracePeriod)
	}
	for name, text := range map[string]string{
		"compose.yaml":              at(t, readYAML(t, singleDir+"/compose.yaml")[0], "services", "gateway", "stop_grace_period").(string),
		"caddy-oauth-proxy.service": unit[1],
	} {
		if d, err := time.ParseDuration(text); err != nil || d < need {
			t.Errorf("%s gives the gateway %s to stop, which takes up to %s", name, text, need)
		}
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

func TestEverySecretOfTheSingleGatewayIsProvided(t *testing.T) {
	t.Parallel()
	unit := readExample(t, singleDir, "caddy-oauth-proxy.service")
	named := regexp.MustCompile(`\{file\.\{\$SECRETS:/run/secrets\}/([\w-]+)\}`).FindAllStringSubmatch(readExample(t, singleDir, "Caddyfile"), -1)
	if len(named) != 2 {
		t.Fatalf("secrets: %v", named)
	}
	for _, m := range named {
		if !strings.Contains(unit, "\nLoadCredential="+m[1]+":/etc/caddy-oauth-proxy/secrets/"+m[1]+"\n") {
			t.Errorf("the unit lacks %s", m[1])
		}
	}
	if !strings.Contains(unit, "\nEnvironment=SECRETS=%d\n") || !strings.Contains(unit, "\nStateDirectory=caddy-oauth-proxy\n") {
		t.Error("the unit does not say where secrets and the vault are")
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

func TestUnitsOfTheExamplesAreWhatSystemdTakes(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		const what = "systemd-analyze is not installed; on Debian run: apt-get install systemd"
		if os.Getenv("CI") != "" {
			t.Fatal(what)
		}
		t.Skip(what)
	}
	for _, dir := range []string{deployDir, singleDir} {
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			// Caddy need not be installed here.
			unit := strings.ReplaceAll(readExample(t, dir, "caddy-oauth-proxy.service"), "=/usr/local/bin/caddy ", "=/bin/true ")
			path := filepath.Join(t.TempDir(), "caddy-oauth-proxy.service")
			if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), analyze, "verify", path).CombinedOutput()
			if err != nil || len(bytes.TrimSpace(out)) > 0 {
				t.Errorf("%v: %s", err, out)
			}
			// From 0, for what can do nothing, to 100: a fifth of that is little for what serves the network.
			if out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=20", "--no-pager", path).CombinedOutput(); err != nil {
				t.Errorf("the service may do too much, %v:\n%s", err, out)
			}
		})
	}
}

// A capability is of a user namespace: in one of the service's own, no port of the machine below 1024 can be had.
func TestUnitThatListensAtLowPortsMay(t *testing.T) {
	t.Parallel()
	unit := readExample(t, singleDir, "caddy-oauth-proxy.service")
	for _, want := range []string{"\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n", "\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n"} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit lacks %q", want)
		}
	}
	if regexp.MustCompile(`(?m)^PrivateUsers=`).MatchString(unit) {
		t.Error("with PrivateUsers the service cannot listen at 80 and 443")
	}
}

// What starts, reloads and asks Caddy is typed by nobody before it matters.
func TestCommandsOfTheDeploymentsExist(t *testing.T) {
	t.Parallel()
	var lines []string
	written := map[string]*regexp.Regexp{
		"caddy-oauth-proxy.service": regexp.MustCompile(`(?m)^Exec(?:Start|Reload)=/usr/local/bin/caddy (.+)$`),
		"compose.yaml":              regexp.MustCompile(`(?m)test: \[CMD, caddy, (.+)\]$`),
		"Dockerfile":                regexp.MustCompile(`(?m)^CMD \[(.+)\]$`),
		"Containerfile":             regexp.MustCompile(`(?m)CMD \[(?:"/usr/bin/caddy", )?(.+)\]$`),
	}
	for _, path := range []string{
		deployDir + "/caddy-oauth-proxy.service", deployDir + "/Dockerfile",
		singleDir + "/caddy-oauth-proxy.service", singleDir + "/Dockerfile", singleDir + "/compose.yaml", "../Containerfile",
	} {
		found := written[filepath.Base(path)].FindAllStringSubmatch(readExample(t, path), -1)
		if len(found) == 0 {
			t.Errorf("%s starts nothing", path)
		}
		for _, m := range found {
			lines = append(lines, strings.NewReplacer(`"`, "", ",", "").Replace(m[1]))
		}
	}
	if len(lines) != 9 {
		t.Errorf("%d commands were found: %q", len(lines), lines)
	}
	for _, line := range lines {
		args := strings.Fields(line)
		registered, ok := caddycmd.Commands()[args[0]]
		if !ok {
			t.Errorf("caddy %s: there is no such command", line)
			continue
		}
		root := &cobra.Command{Use: args[0]}
		if registered.CobraFunc != nil {
			registered.CobraFunc(root)
		} else {
			root.Flags().AddGoFlagSet(registered.Flags)
		}
		cmd, rest, err := root.Find(args[1:])
		if err != nil || cmd == root && root.HasSubCommands() {
			t.Errorf("caddy %s: there is no such command, %v", line, err)
			continue
		}
		if err := cmd.ParseFlags(rest); err != nil {
			t.Errorf("caddy %s: %v", line, err)
		}
	}
}

// Provisioned as Caddy does when it starts, with files where the Caddyfiles say that secrets are.
func TestCaddyfilesOfTheDeploymentsValidate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vault-key", "database-password", "okta-client-secret", "github-client-secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(base64.StdEncoding.EncodeToString(secret)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	here := strings.NewReplacer("/var/lib/caddy-oauth-proxy/", dir+"/", "{env.DATABASE}", `"host=localhost user=oauth_proxy dbname=oauth_proxy sslmode=disable"`, "{env.OKTA_CLIENT_ID}", "0oa1example", "{env.GITHUB_CLIENT_ID}", "Iv1.example")
	for _, path := range []string{deployDir, singleDir} {
		check := func(secrets string) error {
			caddyfile := here.Replace(readExample(t, path, "Caddyfile"))
			adapted := adapt(t, strings.ReplaceAll(caddyfile, "{$SECRETS:/run/secrets}", secrets))
			var config caddy.Config
			if err := json.Unmarshal([]byte(adapted), &config); err != nil {
				t.Fatal(adapted)
			}
			config.Admin = &caddy.AdminConfig{Disabled: true}
			return caddy.Validate(&config)
		}
		if err := check(dir); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if err := check(filepath.Join(dir, "missing")); err == nil || !strings.Contains(err.Error(), "is not set or cannot be read") {
			t.Errorf("%s without its secrets: %v", path, err)
		}
	}
}
