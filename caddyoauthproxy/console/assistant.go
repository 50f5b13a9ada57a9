package console

import (
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
)

// AssistantStart is the first page of the configuration assistant: which provider?
type AssistantStart struct {
	// Existing are the providers that are configured, and New the types for another one.
	Existing, New []AssistantChoice
}

// AssistantChoice is one of them, with the page to go on to.
type AssistantChoice struct{ Name, Text, URL string }

// AssistantForm is the second page: a form for the provider and the MCP server.
type AssistantForm struct {
	// Title says what is added, and Note what to know before.
	Title, Note string

	// Action is where the form goes, with Hidden and CSRF. Start is the first page.
	Action string
	Hidden []Hidden
	CSRF   string
	Start  string

	// Problems are about the configuration as a whole. Those of fields stand beside these.
	Problems []string

	Sections []AssistantSection
}

// Invalid are the fields that something is wrong with.
func (f AssistantForm) Invalid() []AssistantField {
	var found []AssistantField
	for _, s := range f.Sections {
		for _, field := range s.Fields {
			if field.Problem != "" {
				found = append(found, field)
			}
		}
	}
	return found
}

// AssistantSection is a group of fields.
type AssistantSection struct {
	Title  string
	Fields []AssistantField
}

// AssistantField is one field: one line of text, or several, a choice where there are options, or one that is ticked.
type AssistantField struct {
	Name, Label, Help, Value string
	Required, Lines, Tick    bool
	Options                  []Option

	// Problem is what is wrong with the value.
	Problem string
}

// AssistantResult is the third page: what to add to the configuration.
type AssistantResult struct {
	// Title says what this is, and Lead what to do with it.
	Title, Lead string

	// RedirectURI is what to register at Provider; Guide is the part of the documentation that says where. SelfRegisters says that the gateway does it by itself.
	RedirectURI, Provider, Guide string
	SelfRegisters                bool

	// Resource is the URL for chatbots.
	Resource string

	// Blocks are what to copy.
	Blocks []AssistantBlock

	// CanApply offers to change the running config: the form goes to Action, with Hidden and CSRF. Otherwise WhyNot says why not.
	CanApply bool
	WhyNot   string
	Action   string
	Hidden   []Hidden
	CSRF     string

	// Applied says that the running config has it already.
	Applied bool

	// Start is the first page.
	Start string

	copy template.JS
}

// Copy is the script behind the buttons that copy.
func (r AssistantResult) Copy() template.JS { return r.copy }

// AssistantBlock is a text to copy.
type AssistantBlock struct{ ID, Title, Help, Text string }

// AssistantPlan asks before the running config is changed.
type AssistantPlan struct {
	// Changes are its parts that would be others.
	Changes []AssistantChange

	// Warning is what to know before.
	Warning string

	// Action is where the form goes, with Hidden and CSRF, and Start the first page.
	Action string
	Hidden []Hidden
	CSRF   string
	Start  string
}

// AssistantChange is a part of the config that is added. Now says what stands there until then.
type AssistantChange struct{ Path, Now, New string }

// AssistantStart draws the first page.
func (p *Pages) AssistantStart(w http.ResponseWriter, f Frame, s AssistantStart) {
	p.framed(w, http.StatusOK, "assistant", "Configuration assistant", f, s)
}

// AssistantForm draws the form.
func (p *Pages) AssistantForm(w http.ResponseWriter, status int, f Frame, form AssistantForm) {
	p.framed(w, status, "assistantform", form.Title, f, form)
}

// AssistantResult draws what the form came to. Its script puts buttons beside the blocks; all works without it.
func (p *Pages) AssistantResult(w http.ResponseWriter, f Frame, r AssistantResult) {
	r.copy = p.blocks
	hash := sha256.Sum256([]byte("\n" + string(p.blocks)))
	policy := p.policy + "; form-action 'self'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"
	p.send(w, policy, http.StatusOK, "assistantresult", page{Title: r.Title, Frame: &f, Data: r})
}

// AssistantPlan draws the page that asks.
func (p *Pages) AssistantPlan(w http.ResponseWriter, f Frame, plan AssistantPlan) {
	p.framed(w, http.StatusOK, "assistantplan", "Change the running configuration?", f, plan)
}

// assistantSamples are contents that the assistant's pages could have.
func assistantSamples() map[string]any {
	hidden := []Hidden{{"template", "okta"}}
	return map[string]any{
		"assistant": AssistantStart{Existing: []AssistantChoice{{"okta", "type okta", "/"}}, New: []AssistantChoice{{"github", "needs client id and secret", "/"}}},
		"assistantform": AssistantForm{
			Title: "Title", Note: "Note", Action: "/", Hidden: hidden, Start: "/", Problems: []string{"Problem"},
			Sections: []AssistantSection{{"Provider", []AssistantField{
				{Name: "domain", Label: "Domain", Help: "Help", Value: "acme", Required: true, Problem: "Problem"}, {Name: "allow", Label: "Allow", Lines: true, Problem: "Problem"},
				{Name: "compat", Label: "Compat", Value: "on", Tick: true}, {Name: "consent", Label: "Consent", Options: []Option{{"", "as usual", true}}, Problem: "Problem"},
			}}},
		},
		"assistantresult": AssistantResult{
			Title: "Title", Lead: "Lead", RedirectURI: "https://gateway.example.com/api/v1/oauth/callback", Provider: "okta", Guide: "okta", Resource: "https://gateway.example.com/jira/mcp",
			Blocks: []AssistantBlock{{"site", "Site", "Help", "mcp_proxy"}}, CanApply: true, Action: "/", Hidden: hidden, Start: "/",
		},
		"assistantplan": AssistantPlan{Changes: []AssistantChange{{"apps", "{}", "{}"}}, Warning: "Warning", Action: "/", Hidden: hidden, Start: "/"},
	}
}
