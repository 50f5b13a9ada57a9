package operator

import (
	"slices"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/caddyoauthproxy/upstream"
)

func TestEveryFieldOfTheFormsIsOneOfADraftAndTheOtherWayRound(t *testing.T) {
	t.Parallel()
	if !slices.IsSorted(draftFields) {
		t.Errorf("not in order: %v", draftFields)
	}
	drawn := map[string]bool{"template": true}
	sections := [][]field{serverFields}
	for _, template := range upstream.Templates() {
		sections = append(sections, providerFields(template))
	}
	for _, f := range slices.Concat(sections...) {
		drawn[f.name] = true
		if !slices.Contains(draftFields, f.name) || f.label == "" || f.help == "" {
			t.Errorf("%+v", f)
		}
	}
	for _, name := range draftFields {
		if !drawn[name] {
			t.Errorf("no form has %s", name)
		}
	}
	for _, template := range upstream.Templates() {
		for _, name := range slices.Concat(template.Needs, template.Takes) {
			if !slices.ContainsFunc(providerFields(template), func(f field) bool { return f.name == name }) {
				t.Errorf("%s: its form has no %s", template.Name, name)
			}
		}
	}
}
