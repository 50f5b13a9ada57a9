package docs

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// addresses finds every http address in all that users read, with the places where each stands: files and lines. A link is one that is there to be followed: the target of a link of
// a page, or the runbook of an alert. The others are samples and values.
func addresses(t *testing.T) (links, others map[string][]string) {
	t.Helper()
	links, others = make(map[string][]string), make(map[string][]string)
	files, err := filepath.Glob("../*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{".", "../examples"} {
		err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() && !strings.HasSuffix(path, "_test.go") && !strings.HasSuffix(path, ".svg") {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(content)) {
			n++
			at := fmt.Sprintf("%s:%d", file, n)
			for _, m := range linkTarget.FindAllStringSubmatch(line, -1) {
				if strings.HasSuffix(file, ".md") || strings.HasPrefix(m[0], "runbook_url") {
					link := strings.Join(m[1:], "")
					links[link] = append(links[link], at)
				}
			}
			for _, address := range anyAddress.FindAllString(linkTarget.ReplaceAllString(line, ""), -1) {
				others[address] = append(others[address], at)
			}
		}
	}
	return links, others
}

var (
	// linkTarget is what stands in the brackets of a link of Markdown, of <…>, or behind runbook_url.
	linkTarget = regexp.MustCompile(`\]\((https?://[^()\s]+)\)|<(https?://[^>]*)>|runbook_url:\s*(\S+)`)

	// anyAddress ends where prose and code end an address, but for the punctuation behind it.
	anyAddress = regexp.MustCompile("https?://[^\\s\"'`<>()|\\\\,;]*[^\\s\"'`<>()|\\\\,;.:]")
)

// placeholder is what somebody writes where an address is to come.
var placeholder = regexp.MustCompile(`(?i)[…{}$*<>]|\b(todo|fixme|xxx|foo|your|my)\b|%[a-z]\b`)

// checkLink says what is wrong with a link.
func checkLink(link string) error {
	u, err := url.Parse(link)
	switch {
	case err != nil:
		return err
	case u.Scheme != "https":
		return fmt.Errorf("is not https")
	case u.User != nil || u.Port() != "":
		return fmt.Errorf("has a user or a port")
	case !strings.Contains(u.Hostname(), ".") || u.Hostname() != strings.ToLower(u.Hostname()):
		return fmt.Errorf("has no public host, in small letters")
	case reserved(u.Hostname()):
		return fmt.Errorf("leads nowhere: its host is kept for examples")
	case placeholder.MatchString(link):
		return fmt.Errorf("has a placeholder")
	case strings.HasSuffix(link, "#") || strings.HasSuffix(link, "?") || strings.TrimRight(link, ".,;:!'\"*_)") != link:
		return fmt.Errorf("has punctuation behind it")
	case strings.Contains(u.Path, "//"):
		return fmt.Errorf("has two slashes in its path")
	}
	return nil
}

// reserved reports whether a name is nobody's (RFC 2606, RFC 6761), or of this machine or network, and so good for samples.
func reserved(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback() || ip.IsPrivate() || ip.IsUnspecified()
	}
	if !strings.Contains(host, ".") { // localhost, and names of containers
		return true
	}
	for _, top := range []string{"example", "example.com", "example.org", "example.net", "internal", "invalid", "test", "localhost"} {
		if host == top || strings.HasSuffix(host, "."+top) {
			return true
		}
	}
	return false
}

// real are the addresses outside of links whose hosts are somebody's. Each is a value of a protocol, and no sample: a sample would send what readers paste to whoever has that name.
var real = []string{
	"https://acme.okta.com", // of a tenant, as Okta writes its own samples
	"https://api.github.com/users/",
	"https://chatgpt.com/connector/oauth/",
	"https://chatgpt.com/connector_platform_oauth_redirect",
	"https://chatgpt.com/oauth/client.json",
	"https://claude.ai/api/mcp/auth_callback",
	"https://claude.ai/oauth/claude-code-client-metadata",
	"https://claude.com/api/mcp/auth_callback",
	"https://graph.microsoft.com/User.Read",
	"https://github.com/caddy-oauth-proxy/caddy-oauth-proxy",
	"https://vscode.dev/oauth/client-metadata.json",
	"https://vscode.dev/redirect",
	"https://www.cursor.com/agents/mcp/oauth/callback",
	"https://www.googleapis.com/auth/calendar.readonly",
	"https://www.googleapis.com/auth/drive.readonly",
}

func TestEveryExternalLinkIsWellFormed(t *testing.T) {
	t.Parallel()
	links, _ := addresses(t)
	for _, link := range slices.Sorted(maps.Keys(links)) {
		if err := checkLink(link); err != nil {
			t.Errorf("%s: %s %v", links[link][0], link, err)
		}
	}
	if len(links) < 80 {
		t.Errorf("only %d links were found: the test is no good", len(links))
	}
}

func TestAddressesOfSamplesAreNobodys(t *testing.T) {
	t.Parallel()
	_, others := addresses(t)
	used := make(map[string]bool)
	for _, address := range slices.Sorted(maps.Keys(others)) {
		host := anyHost.FindStringSubmatch(address)[1]
		if reserved(host) || strings.ContainsAny(host, "{$%…*") || host == "" {
			continue
		}
		i := slices.IndexFunc(real, func(known string) bool { return strings.HasPrefix(address, known) })
		switch {
		case i < 0:
			t.Errorf("%s: %s is an address of somebody's: take a name below example.com, or, where it is meant, list it in real", others[address][0], address)
		case !strings.HasPrefix(address, "https://"):
			t.Errorf("%s: %s is not https", others[address][0], address)
		default:
			used[real[i]] = true
		}
	}
	for _, known := range real {
		if !used[known] {
			t.Errorf("%s is listed in real, and stands nowhere", known)
		}
	}
	if len(others) < 50 {
		t.Errorf("only %d addresses were found: the test is no good", len(others))
	}
}

// anyHost is the host of an address, even one with placeholders that url.Parse refuses.
var anyHost = regexp.MustCompile(`^https?://([^/:?#]*)`)

func TestALinkIsRefusedForWhatIsWrongWithIt(t *testing.T) {
	t.Parallel()
	for link, want := range map[string]string{
		"https://caddyserver.com/docs/caddyfile/options#storage": "",
		"http://caddyserver.com/docs":                            "https",
		"https://caddyserver.com/docs.":                          "punctuation",
		"https://caddyserver.com/docs)":                          "punctuation",
		"https://caddyserver.com/docs#":                          "punctuation",
		"https://caddyserver.com//docs":                          "two slashes",
		"https://caddyserver.com/{version}":                      "placeholder",
		"https://caddyserver.com/your-name":                      "placeholder",
		"https://caddyserver.com:8443/docs":                      "port",
		"https://docs.example.com/":                              "examples",
		"https://caddyserver/docs":                               "public host",
		"https://caddyserver.com/%zz":                            "invalid",
	} {
		err := checkLink(link)
		if got := fmt.Sprint(err); (want == "") != (err == nil) || !strings.Contains(got, want) && want != "" {
			t.Errorf("%s: %s, want %q", link, got, want)
		}
	}
}
