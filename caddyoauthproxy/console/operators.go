package console

import "net/http"

// The pages of operators. All of them are made of four: a start page, lists, sheets about one thing, and forms that change something.

// Overview is the operators' start page: it says whether all is well.
type Overview struct {
	// Tiles are the grants by health.
	Tiles []Tile

	// State is what is watched, and how it fares, and Events what happened lately that they should know of.
	State, Events Section
}

// Tile is a number, and the list that it counts.
type Tile struct {
	Badge  Badge
	Number int
	Link   string
}

// List is a page with a table.
type List struct {
	Title, Lead string

	// Actions are what can be done beside looking.
	Actions []Action

	// Mistakes are what is wrong with the filter. Nothing is listed then.
	Mistakes []Mistake

	Filter *Filter
	Table  Table
	Empty  Empty // in the place of a table without rows
	Pager  *Pager

	// Pick, when set, makes the table part of a form, whose boxes choose rows.
	Pick *Pick

	// Links lead on from the whole list, such as to its export. Note says what they do not do.
	Links []Action
	Note  string
}

// Mistake is something wrong in what was asked for. Field is its name; empty where it concerns none.
type Mistake struct{ Field, Text string }

// Pick is a form around a table. It reads only: what it leads to asks before it does anything.
type Pick struct{ Action, Button string }

// Sheet is a page about one thing.
type Sheet struct {
	Title  string
	Badge  *Badge
	Reason string // why it is as the badge says
	Lead   string

	// Back is the list that it belongs to.
	Back *Action

	Actions  []Action
	Sections []Section
}

// Section is a part of a page.
type Section struct {
	ID, Title, Lead string

	Facts   []Fact
	Cards   []Card
	Table   *Table
	Empty   *Empty
	Actions []Action
}

// Card is one thing of several.
type Card struct {
	Title  string
	Badge  *Badge
	Reason string
	Facts  []Fact
	Action *Action
}

// Form is a page that asks, and does what it says when it is answered.
type Form struct {
	Title    string
	Texts    []string
	Warnings []string // what may not be as the operator thinks
	Facts    []Fact
	Table    *Table

	Mistakes []Mistake
	Fields   []FormField

	// Action is where the form goes, with Hidden and the frame's token.
	Action string
	Hidden []Hidden
	CSRF   string

	// Button does it, and Cancel is where to go instead. Danger is for what cannot be taken back.
	Button, Cancel string
	Danger         bool
}

// FormField is an input of a form: a text, or boxes where there are Checks. The value of a box's Option is its name.
type FormField struct {
	Name, Label, Help, Value, Problem string

	Required bool
	Most     int // characters
	Checks   []Option
}

// Overview draws the page.
func (p *Pages) Overview(w http.ResponseWriter, f Frame, o Overview) {
	p.framed(w, http.StatusOK, "overview", "Overview", f, o)
}

// List draws the page. One with mistakes is a refusal.
func (p *Pages) List(w http.ResponseWriter, f Frame, l List) {
	p.framed(w, refused(http.StatusBadRequest, l.Mistakes), "list", l.Title, f, l)
}

// Sheet draws the page.
func (p *Pages) Sheet(w http.ResponseWriter, f Frame, s Sheet) {
	s.Title = Clean(s.Title, 120)
	p.framed(w, http.StatusOK, "sheet", s.Title, f, s)
}

// Form draws the page. One with mistakes is a refusal.
func (p *Pages) Form(w http.ResponseWriter, f Frame, form Form) {
	form.CSRF, form.Title = f.CSRF, Clean(form.Title, 120)
	p.framed(w, refused(http.StatusUnprocessableEntity, form.Mistakes), "form", form.Title, f, form)
}

func refused(status int, mistakes []Mistake) int {
	if len(mistakes) == 0 {
		return http.StatusOK
	}
	return status
}

// operatorSamples are contents that the pages of operators could have.
func operatorSamples(facts []Fact) map[string]any {
	badge, action, mistakes := Badge{"valid", "valid"}, Action{Text: "Text", Link: "/", About: "About", Danger: true}, []Mistake{{"name", "Text"}, {"", "Text"}}
	table := Table{
		Caption: "Caption", Columns: []Column{{Title: "One", Plain: true}, {Title: "Two", Sort: "/", Order: "ascending", Number: true}},
		Rows: [][]Cell{{{Check: &Check{"id", "1", "About"}}, {Value: facts[0].Value, Action: &action}}},
	}
	empty := Empty{"Title", "Text", "/", "Text"}
	section := Section{
		ID: "id", Title: "Title", Lead: "Lead", Facts: facts, Cards: []Card{{"Title", &badge, "Reason", facts, &action}}, Table: &table, Empty: &empty, Actions: []Action{action},
	}
	return map[string]any{
		"overview": Overview{Tiles: []Tile{{badge, 1, "/"}}, State: section, Events: section},
		"list": List{
			Title: "Title", Lead: "Lead", Actions: []Action{action}, Mistakes: mistakes, Table: table, Empty: empty, Links: []Action{action}, Note: "Note",
			Filter: &Filter{Action: "/", Fields: []Field{{Name: "text", Label: "Label", Problem: "Problem"}, {Name: "one", Label: "Label", Options: []Option{{"1", "one", true}}}}, Reset: "/"},
			Pager:  &Pager{Text: "Text", First: "/", Previous: "/", Next: "/"}, Pick: &Pick{"/", "Text"},
		},
		"sheet": Sheet{Title: "Title", Badge: &badge, Reason: "Reason", Lead: "Lead", Back: &action, Actions: []Action{action}, Sections: []Section{section}},
		"form": Form{
			Title: "Title", Texts: []string{"Text"}, Warnings: []string{"Text"}, Facts: facts, Table: &table, Mistakes: mistakes,
			Fields: []FormField{{Name: "name", Label: "Label", Help: "Help", Problem: "Problem", Most: 10, Required: true}, {Name: "more", Label: "Label", Checks: []Option{{"one", "One", true}}}},
			Action: "/", Hidden: []Hidden{{"id", "1"}}, Button: "Do it", Cancel: "/", Danger: true,
		},
	}
}
