package console

import (
	"fmt"
	"time"
)

// The building blocks of signed-in pages: what the templates in pages/partials.html show.

// Badge is a state in a word.
type Badge struct {
	// Kind is valid, expiring, expired, broken or revoked, which have a sign and a colour of their own, or anything else.
	Kind string

	Text string
}

// Value is something to show: a text, which may be a link or code, a moment, a badge, a list, or several of these.
type Value struct {
	Text string
	Link string // makes the text a link
	Code bool   // shows the text as code
	Note string // smaller, behind or below
	Time time.Time
	List []string

	// Words stands for the time, as in "3 hours ago". The moment itself is behind it.
	Words string

	Badge *Badge
}

// Fact is a name and its value.
type Fact struct {
	Name string
	Value
}

// Action is a link that looks like a button: to a page that asks before it does anything.
type Action struct {
	Text, Link string

	// About says for screen readers what of many the button is about.
	About string

	// Danger is for what cannot be taken back.
	Danger bool
}

// Table is a list with columns.
type Table struct {
	// Caption says what the table lists.
	Caption string

	Columns []Column

	// Rows have as many cells as there are columns.
	Rows [][]Cell
}

// Column is the head of a column.
type Column struct {
	Title string

	// Sort is the link that sorts by the column; empty where that cannot be. Order is ascending or descending where the table is sorted by it.
	Sort, Order string

	// Number puts the values to the right.
	Number bool

	// Wide is for what is long: an address, or a sentence.
	Wide bool

	// Plain leaves the title to screen readers, where what stands below says enough.
	Plain bool
}

// Cell is a value in a table, with a button where there is something to do, and a box to choose the row with.
type Cell struct {
	Value
	Action *Action
	Check  *Check
}

// Check is a box to choose a row of a table with. About says for screen readers which.
type Check struct{ Name, Value, About string }

// Filter is a form that narrows a list. It reads only, so its answers stand in the URL.
type Filter struct {
	Action string
	Fields []Field

	// Hidden are further parameters to keep.
	Hidden []Hidden

	// Button is what the button says. Default: Show. Reset is the link that takes all filters away; empty where there are none.
	Button, Reset string
}

// Field is one input of a filter: a choice where there are options, else of an HTML input type, search by default.
type Field struct {
	Name, Label, Value, Type string
	Options                  []Option

	// Problem says what is wrong with the value.
	Problem string
}

// Option is one choice.
type Option struct {
	Value, Text string
	Selected    bool
}

// Hidden is a parameter that nobody sees.
type Hidden struct{ Name, Value string }

// Pager leads through a list.
type Pager struct {
	Text           string // how much there is
	Previous, Next string // links; empty at an end
	First          string // to the beginning of a list that knows no way back; empty there
}

// Empty stands where a list has nothing in it.
type Empty struct{ Title, Text, Link, LinkText string }

// Result is what a form has done, or has not.
type Result struct {
	Failed         bool
	Text           string
	Link, LinkText string
}

// Confirm asks before something happens.
type Confirm struct {
	Title string
	Texts []string
	Facts []Fact

	// Action is where the form goes, with Hidden and the frame's token.
	Action string
	Hidden []Hidden
	CSRF   string

	// Button does it, and Cancel is where to go instead. Danger is for what cannot be taken back.
	Button, Cancel string
	Danger         bool
}

// Ago says how long ago something was, in words.
func Ago(t, now time.Time) string {
	switch d := now.Sub(t); {
	case t.IsZero():
		return ""
	case d < time.Minute:
		return "just now"
	default:
		return span(d) + " ago"
	}
}

// Ahead says in how long something will be, in words.
func Ahead(t, now time.Time) string {
	switch d := t.Sub(now); {
	case t.IsZero():
		return ""
	case d < 0:
		return Ago(t, now)
	case d < time.Minute:
		return "in a moment"
	default:
		switch { // to the nearest, so that what has just begun for 30 days says so
		case d >= 48*time.Hour:
			d += 12 * time.Hour
		case d >= time.Hour:
			d += 30 * time.Minute
		}
		return "in " + span(d)
	}
}

// span is a time of a minute or more in words.
func span(d time.Duration) string {
	count := func(n int, unit string) string {
		if n != 1 {
			unit += "s"
		}
		return fmt.Sprintf("%d %s", n, unit)
	}
	switch {
	case d < time.Hour:
		return count(int(d/time.Minute), "minute")
	case d < 48*time.Hour:
		return count(int(d/time.Hour), "hour")
	default:
		return count(int(d/(24*time.Hour)), "day")
	}
}
