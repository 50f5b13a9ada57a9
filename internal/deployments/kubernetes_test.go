package deployments

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const manifests = cluster + "/kubernetes"

// decode reads a manifest as an API server does that is asked to be strict: what no field is called, what stands there twice, and what is of another type is an error.
func decode(text string) (runtime.Object, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	object, _, err := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer().Decode([]byte(text), nil, nil)
	return object, err
}

// world is what the manifests make.
type world struct {
	config     *corev1.ConfigMap
	deployment *appsv1.Deployment
	service    *corev1.Service
	ingress    *networkingv1.Ingress
	budget     *policyv1.PodDisruptionBudget
	network    *networkingv1.NetworkPolicy
}

func worldOf(texts map[string]string) (w world, err error) {
	for name, text := range texts {
		object, err := decode(text)
		if err != nil {
			return w, fmt.Errorf("%s: %w", name, err)
		}
		switch object := object.(type) {
		case *corev1.ConfigMap:
			w.config = object
		case *appsv1.Deployment:
			w.deployment = object
		case *corev1.Service:
			w.service = object
		case *networkingv1.Ingress:
			w.ingress = object
		case *policyv1.PodDisruptionBudget:
			w.budget = object
		case *networkingv1.NetworkPolicy:
			w.network = object
		default:
			return w, fmt.Errorf("%s: this test does not know a %T", name, object)
		}
	}
	if w.config == nil || w.deployment == nil || w.service == nil || w.ingress == nil || w.budget == nil || w.network == nil {
		return w, errors.New("some of the manifests are missing")
	}
	return w, nil
}

// check finds what each manifest may say, and all of them together may not.
func (w world) check(t *testing.T, told string, need needs) error {
	t.Helper()
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, object := range []metav1.Object{w.config, w.deployment, w.service, w.ingress, w.budget, w.network} {
		for _, wrong := range validation.IsDNS1123Subdomain(object.GetName()) {
			fault("%T: name %q: %s", object, object.GetName(), wrong)
		}
	}

	// Selectors find the pods.
	pod := w.deployment.Spec.Template
	for name, selector := range map[string]*metav1.LabelSelector{
		"Deployment": w.deployment.Spec.Selector, "PodDisruptionBudget": w.budget.Spec.Selector, "NetworkPolicy": &w.network.Spec.PodSelector,
		"Service": metav1.SetAsLabelSelector(w.service.Spec.Selector),
	} {
		s, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil || s.Empty() || !s.Matches(labels.Set(pod.Labels)) {
			fault("%s: its selector %v, %v does not find the pods, which are %v", name, s, err, pod.Labels)
		}
	}
	for i, spread := range pod.Spec.TopologySpreadConstraints {
		if s, err := metav1.LabelSelectorAsSelector(spread.LabelSelector); err != nil || s.Empty() || !s.Matches(labels.Set(pod.Labels)) {
			fault("topologySpreadConstraints %d: its selector does not find the pods", i)
		}
	}

	if len(pod.Spec.Containers) != 1 {
		return fmt.Errorf("there are %d containers", len(pod.Spec.Containers))
	}
	caddy := pod.Spec.Containers[0]

	// Ports are called alike everywhere, and Caddy listens there.
	ports, listens := make(map[string]bool), make([]string, 0, len(caddy.Ports))
	for _, p := range caddy.Ports {
		for _, wrong := range validation.IsValidPortName(p.Name) {
			fault("port %q: %s", p.Name, wrong)
		}
		ports[p.Name] = true
		listens = append(listens, fmt.Sprint(p.ContainerPort))
	}
	slices.Sort(listens)
	if !slices.Equal(listens, need.ports) {
		fault("the container has the ports %v, its Caddyfile %v", listens, need.ports)
	}
	named := func(of string, port intstr.IntOrString) {
		if port.Type != intstr.String || !ports[port.StrVal] {
			fault("%s: the container has no port %q", of, port.String())
		}
	}
	served := make(map[string]bool)
	for _, p := range w.service.Spec.Ports {
		named("Service", p.TargetPort)
		served[p.Name] = true
	}
	for _, rule := range w.network.Spec.Ingress {
		for _, p := range rule.Ports {
			named("NetworkPolicy", *p.Port)
		}
	}
	for name, probe := range map[string]*corev1.Probe{"startupProbe": caddy.StartupProbe, "livenessProbe": caddy.LivenessProbe, "readinessProbe": caddy.ReadinessProbe} {
		if probe == nil || probe.HTTPGet == nil {
			fault("%s: there is none", name)
			continue
		}
		named(name, probe.HTTPGet.Port)
		if !endpoint(t, probe.HTTPGet.Path) {
			fault("%s: docs/endpoints.md does not know %s", name, probe.HTTPGet.Path)
		}
	}
	for _, rule := range w.ingress.Spec.Rules {
		for _, path := range rule.HTTP.Paths {
			if to := path.Backend.Service; to == nil || to.Name != w.service.Name || !served[to.Port.Name] {
				fault("Ingress: %s leads to %v, which is no port of the Service", path.Path, to)
			}
		}
		if !slices.ContainsFunc(w.ingress.Spec.TLS, func(tls networkingv1.IngressTLS) bool { return slices.Contains(tls.Hosts, rule.Host) }) {
			fault("Ingress: %s has no certificate", rule.Host)
		}
		if !strings.Contains(w.config.Data["Caddyfile"], "issuer https://"+rule.Host+"\n") {
			fault("Ingress: %s is not the issuer of the Caddyfile", rule.Host)
		}
	}

	// Each volume is mounted, and holds what is looked for there.
	volumes := make(map[string]corev1.Volume)
	for _, v := range pod.Spec.Volumes {
		volumes[v.Name] = v
	}
	mounted := make(map[string]string) // paths by volume
	for _, m := range caddy.VolumeMounts {
		if _, ok := volumes[m.Name]; !ok {
			fault("%s: there is no volume %s", m.MountPath, m.Name)
		}
		mounted[m.Name] = m.MountPath
	}
	secrets, caddyfile := "", false
	for name, v := range volumes {
		path, ok := mounted[name]
		if !ok {
			fault("the volume %s is mounted nowhere", name)
		}
		switch {
		case v.ConfigMap != nil:
			if v.ConfigMap.Name != w.config.Name {
				fault("volume %s: there is no ConfigMap %s", name, v.ConfigMap.Name)
			}
			for _, item := range v.ConfigMap.Items {
				if _, ok := w.config.Data[item.Key]; !ok {
					fault("volume %s: the ConfigMap has no %s", name, item.Key)
				}
				caddyfile = caddyfile || path+"/"+item.Path == "/etc/caddy/Caddyfile"
			}
		case v.Secret != nil:
			secrets = path
			command := "kubectl create secret generic " + v.Secret.SecretName
			for _, key := range need.secrets {
				command += " --from-file=" + key
			}
			if !sameWords(told, command) {
				fault("volume %s: the manifest's head does not say %q", name, command)
			}
			// What the owner alone may read is root's, and the group's what fsGroup says.
			if v.Secret.DefaultMode == nil || *v.Secret.DefaultMode != 0o440 || pod.Spec.SecurityContext.FSGroup == nil {
				fault("volume %s: the user of the container cannot read it, or others can", name)
			}
		}
	}
	if !caddyfile {
		fault("no Caddyfile is where the image looks for it")
	}

	// What the Caddyfile asks the environment for is there.
	environment := make(map[string]string)
	for _, e := range caddy.Env {
		environment[e.Name] = e.Value
		if from := e.ValueFrom; from != nil {
			if from.ConfigMapKeyRef == nil || from.ConfigMapKeyRef.Name != w.config.Name || w.config.Data[from.ConfigMapKeyRef.Key] == "" {
				fault("%s: the ConfigMap does not have it", e.Name)
			}
			environment[e.Name] = "from the ConfigMap"
		}
	}
	for _, name := range need.variables {
		if environment[name] == "" {
			fault("the Caddyfile wants %s, which the container does not have", name)
		}
	}
	if environment["SECRETS"] == "" || environment["SECRETS"] != secrets {
		fault("SECRETS is %q, and secrets are in %q", environment["SECRETS"], secrets)
	}
	return errors.Join(errs...)
}

// sameWords says whether a line of the text has the words of the command, in any order.
func sameWords(text, command string) bool {
	want := strings.Fields(command)
	slices.Sort(want)
	for line := range strings.SplitSeq(text, "\n") {
		got := strings.Fields(strings.TrimPrefix(line, "#"))
		slices.Sort(got)
		if slices.Equal(got, want) {
			return true
		}
	}
	return false
}

func texts(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, path := range glob(t, 7, manifests+"/*.yaml") {
		if name := filepath.Base(path); name != "kustomization.yaml" {
			found[name] = read(t, path)
		}
	}
	return found
}

func TestKubernetesTakesTheManifests(t *testing.T) {
	t.Parallel()
	w, err := worldOf(texts(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.check(t, read(t, manifests, "deployment.yaml"), needsOf(t, cluster)); err != nil {
		t.Error(err)
	}
}

func TestKustomizeBuildsAllManifests(t *testing.T) {
	t.Parallel()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), manifests)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := built.Size(), len(texts(t)); got != want {
		t.Errorf("it builds %d resources of %d", got, want)
	}
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode(string(text)); err != nil {
			t.Errorf("%s: %v", resource.CurId(), err)
		}
	}
}

func TestMistakesInTheManifestsAreFound(t *testing.T) {
	t.Parallel()
	for file, mutations := range map[string][]mutation{
		"deployment.yaml": {
			{"a field that is none", "minReadySeconds:", "minimumReadySeconds:", `unknown field "spec.minimumReadySeconds"`},
			{"a field in the wrong place", "automountServiceAccountToken: false", "readinessGate: {}", "unknown field"},
			{"a field twice", "  replicas: 3\n", "  replicas: 3\n  replicas: 4\n", "replicas"},
			{"text for a number", "replicas: 3", "replicas: three", "replicas"},
			{"a number for text", "value: /run/secrets/oauth-gateway", "value: 5", "env.value of type string"},
			{"no quantity", "memory: 1Gi", "memory: 1 gigabyte", "quantities must match"},
			{"a version that is none", "apiVersion: apps/v1", "apiVersion: apps/v2", "no kind"},
			{"another label", "metadata:\n      labels: {app: oauth-gateway}", "metadata:\n      labels: {app: gateway}", "does not find the pods"},
			{"a volume that nobody mounts", "            - {name: tmp, mountPath: /tmp}\n", "", "mounted nowhere"},
			{"a mount of nothing", "- {name: tmp, mountPath: /tmp}", "- {name: temp, mountPath: /tmp}", "no volume temp"},
			{"a key that the ConfigMap lacks", "key: OKTA_CLIENT_ID", "key: CLIENT_ID", "the ConfigMap does not have it"},
			{"a variable that is not set", "- {name: SECRETS, value: /run/secrets/oauth-gateway}", "- {name: SECRET, value: /run/secrets/oauth-gateway}", "SECRETS is"},
			{"a secret nobody is told to make", " --from-file=vault-key", "", "does not say"},
			{"a secret of another name", "secretName: oauth-gateway", "secretName: gateway", "does not say"},
			{"a route that is none", "path: /oauth/ready", "path: /oauth/readyz", "does not know /oauth/readyz"},
			{"a port of another name", "port: http}\n            periodSeconds: 10", "port: web}\n            periodSeconds: 10", `no port "web"`},
			{"a port where nobody listens", "containerPort: 8080", "containerPort: 8081", "its Caddyfile"},
			{"a secret that cannot be read", "defaultMode: 0440", "defaultMode: 0400", "cannot read it"},
			{"a Caddyfile elsewhere", "mountPath: /etc/caddy,", "mountPath: /etc/caddy2,", "no Caddyfile"},
		},
		"service.yaml": {
			{"other pods", "selector: {app: oauth-gateway}", "selector: {app: gateway}", "does not find the pods"},
			{"another port", "targetPort: http", "targetPort: https", `no port "https"`},
		},
		"ingress.yaml": {
			{"another service", "name: oauth-gateway\n                port", "name: gateway\n                port", "no port of the Service"},
			{"a host without a certificate", "hosts: [gateway.example.com]", "hosts: [www.example.com]", "no certificate"},
			{"another host", "- host: gateway.example.com", "- host: www.example.com", "is not the issuer"},
		},
		"poddisruptionbudget.yaml": {{"other pods", "matchLabels: {app: oauth-gateway}", "matchLabels: {app: gateway}", "does not find the pods"}},
		"networkpolicy.yaml":       {{"another port", "- {port: metrics}", "- {port: metric}", `no port "metric"`}},
		"configmap.yaml":           {{"a number for text", "OKTA_CLIENT_ID: 0oa1example", "OKTA_CLIENT_ID: 5", "data"}},
	} {
		for _, m := range mutations {
			t.Run(file+", "+m.name, func(t *testing.T) {
				t.Parallel()
				changed := texts(t)
				changed[file] = m.apply(t, changed[file])
				w, err := worldOf(changed)
				if err == nil {
					err = w.check(t, changed["deployment.yaml"], needsOf(t, cluster))
				}
				if err == nil || !strings.Contains(err.Error(), m.want) {
					t.Errorf("%v: that does not say %q", err, m.want)
				}
			})
		}
	}
}
