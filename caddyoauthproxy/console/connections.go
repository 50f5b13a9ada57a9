package console

import "net/http"

// Connections is the page on which users see and cut their own connections.
type Connections struct {
	// Grants are the chatbots that may act as the user, and Accounts the accounts that are connected for them.
	Grants, Accounts []Connection

	// Servers are the MCP servers that the user can connect without a chatbot.
	Servers []Server

	// CutAll and SignOutAll are the pages that ask before all of it ends, and before the user is signed out in all Browsers.
	CutAll, SignOutAll string
	Browsers           int
}

// Connection is one chatbot, or one account.
type Connection struct {
	// Client is the chatbot's name, or the provider of an account. From says who vouches for it, and Verified that somebody does.
	Client, From string
	Verified     bool

	Badge  Badge
	Reason string
	Facts  []Fact
	Cut    Action
}

// Server is an MCP server, and where it is connected.
type Server struct{ Name, Resource, Link string }

// Connections draws the page.
func (p *Pages) Connections(w http.ResponseWriter, f Frame, c Connections) {
	f.Section = "connections"
	p.framed(w, http.StatusOK, "connections", "Connections", f, c)
}
