package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// trace is a stack that was seen in a profile, and for how long.
type trace struct {
	stack []string // the outermost first
	took  time.Duration
}

// traces reads a CPU profile.
func traces(b *testing.B, profile string) (all []trace) {
	b.Helper()
	text, err := exec.CommandContext(b.Context(), "go", "tool", "pprof", "-traces", profile).Output()
	if err != nil {
		b.Fatalf("go tool pprof: %v", err)
	}
	var t trace
	end := func() {
		if t.took > 0 {
			slices.Reverse(t.stack)
			all = append(all, t)
		}
		t = trace{}
	}
	began := false
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "-----------+") {
			end()
			began = true
			continue
		}
		if !began {
			continue
		}
		frame := strings.TrimSpace(line)
		if t.took == 0 {
			value, rest, _ := strings.Cut(frame, " ")
			took, err := time.ParseDuration(value)
			if err != nil { // a label
				continue
			}
			t.took, frame = took, strings.TrimSpace(rest)
		}
		t.stack = append(t.stack, typeArguments.ReplaceAllString(strings.TrimSuffix(frame, " (inline)"), ""))
	}
	end()
	return all
}

// typeArguments are those of generic functions, which say nothing to people.
var typeArguments = regexp.MustCompile(`\[go\.shape\..*\]`)

// module is how functions of ours begin.
const module = "github.com/caddy-oauth-proxy/caddy-oauth-proxy/"

// others are where our code hands over to what plain reverse_proxy has as well.
var others = []string{"caddy/v2/modules/caddyhttp", "net/http.(*response)", "net/http.(*conn)", "net/http.(*Transport)", "net/http.(*persistConn)", "net/http.(*ResponseController)"}

// steps attributes what a profile saw to the innermost function of ours that had it done, and tells the share of each.
func steps(all []trace) (total time.Duration, of map[string]time.Duration) {
	of = make(map[string]time.Duration)
	for _, t := range all {
		total += t.took
		for _, frame := range slices.Backward(t.stack) {
			if slices.ContainsFunc(others, func(o string) bool { return strings.Contains(frame, o) }) {
				break
			}
			if step, ours := strings.CutPrefix(frame, module); ours {
				of[step] += t.took
				break
			}
		}
	}
	return total, of
}

// stepTable are the steps with the largest shares.
func stepTable(all []trace, most int) string {
	total, of := steps(all)
	names := make([]string, 0, len(of))
	var ours time.Duration
	for name, took := range of {
		names = append(names, name)
		ours += took
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(of[b], of[a]), strings.Compare(a, b)) })
	share := func(d time.Duration) float64 { return 100 * float64(d) / float64(total) }
	var out strings.Builder
	out.WriteString("| step | of Caddy's CPU |\n|---|---|\n")
	for _, name := range names[:min(most, len(names))] {
		fmt.Fprintf(&out, "| `%s` | %.1f %% |\n", name, share(of[name]))
	}
	fmt.Fprintf(&out, "| all of the gateway's | %.1f %% |\n", share(ours))
	return out.String()
}

// frame is a rectangle of a flame graph.
type frame struct {
	name  string
	took  time.Duration
	under map[string]*frame
}

// writeFlames draws a profile: the width of a function is its share, and what it called stands on it. Functions of ours are orange.
func writeFlames(b *testing.B, path string, all []trace) {
	b.Helper()
	root := &frame{name: "all", under: make(map[string]*frame)}
	deepest := 0
	for _, t := range all {
		at := root
		at.took += t.took
		deepest = max(deepest, len(t.stack))
		for _, name := range t.stack {
			next := at.under[name]
			if next == nil {
				next = &frame{name: name, under: make(map[string]*frame)}
				at.under[name] = next
			}
			next.took += t.took
			at = next
		}
	}
	const width, height, least = 1400.0, 15, 1.5
	var out strings.Builder
	drawn := 0
	var draw func(f *frame, x float64, depth int)
	draw = func(f *frame, x float64, depth int) {
		w := width * float64(f.took) / float64(root.took)
		if w < least {
			return
		}
		drawn = max(drawn, depth)
		short, color := strings.TrimPrefix(f.name, module), "#b8c4d6"
		switch {
		case strings.HasPrefix(f.name, module):
			color = "#f2a65a"
		case strings.HasPrefix(f.name, "runtime."):
			color = "#d9d9d9"
		}
		fmt.Fprintf(&out, `<g transform="translate(%.1f,{%d})"><title>%s: %.1f %%</title><rect width="%.1f" height="%d" fill="%s"/>`, x, depth,
			html.EscapeString(short), 100*float64(f.took)/float64(root.took), w-0.3, height-1, color)
		if fits := int(w / 6.2); fits > 4 {
			text := filepath.Base(short)
			fmt.Fprintf(&out, `<text x="2" y="11">%s</text>`, html.EscapeString(text[:min(len(text), fits)]))
		}
		out.WriteString("</g>\n")
		names := make([]string, 0, len(f.under))
		for name := range f.under {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			draw(f.under[name], x, depth+1)
			x += width * float64(f.under[name].took) / float64(root.took)
		}
	}
	draw(root, 0, 0)
	text := out.String()
	for depth := drawn; depth >= 0; depth-- {
		text = strings.ReplaceAll(text, fmt.Sprintf("{%d}", depth), fmt.Sprint((drawn-depth)*height))
	}
	svg := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" font-family="monospace" font-size="10"><rect width="100%%" height="100%%" fill="#fff"/>`+"\n%s</svg>\n", width, (drawn+1)*height, text)
	if err := os.WriteFile(path, []byte(svg), 0o644); err != nil {
		b.Fatal(err)
	}
}
