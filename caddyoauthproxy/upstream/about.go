package upstream

// About is what operators see of a provider's configuration.
type About struct {
	// Name is the one in the configuration, and Type the template.
	Name string `json:"name"`
	Type string `json:"type"`

	// Issuer is the provider's issuer URL, where the type has one, and Server the MCP server whose authorization server it is.
	Issuer string `json:"issuer,omitempty"`
	Server string `json:"server,omitempty"`

	// ClientID is the gateway's own client identifier there; empty where it registers itself.
	ClientID string `json:"client_id,omitempty"`

	// Scopes are what every login asks for. A provider of type mcp asks for what its server demands.
	Scopes []string `json:"scopes"`
}

// About describes the provider, without its secret. It uses no network.
func (p *Provider) About() About {
	return About{
		Name: p.name, Type: p.template.name, Issuer: p.issuer, Server: p.config.Server, ClientID: p.config.ClientID,
		Scopes: append([]string{}, p.scopes...),
	}
}
