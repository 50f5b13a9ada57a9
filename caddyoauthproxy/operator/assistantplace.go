package operator

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// place is where a route goes in a config: into a list of routes, or behind a handler.
type place struct {
	path   string // of the list, as the config API names it
	list   []any
	index  int
	put    func([]any) // puts the longer list in place of the list
	routes bool        // the list is one of routes, and not one of handlers
}

// insert puts the route there, and returns its path, and what stands there now.
func (p *place) insert(route any) (path string, inserted any) {
	inserted = route
	if !p.routes {
		inserted = map[string]any{"handler": "subroute", "routes": []any{route}}
	}
	p.put(slices.Insert(slices.Clone(p.list), p.index, inserted))
	return p.path + "/" + strconv.Itoa(p.index), inserted
}

// findPlace finds where the route of a new proxy goes: in front of the first mcp_filter of the site that has the oauth_proxy handler and serves
// the issuer's host, where nothing but the filter's own route narrows down which requests get there; else right behind oauth_proxy.
func findPlace(config map[string]any, issuer *url.URL) (*place, error) {
	byHand := "add the route by hand"
	servers, _ := dig(config, "apps", "http", "servers").(map[string]any)
	var found []*place
	for name, s := range servers {
		server, _ := s.(map[string]any)
		if !listensOn(server, issuer) {
			continue
		}
		search{issuer.Hostname(), &found}.routes(server, "apps/http/servers/"+name)
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("no site in the running config has the handler oauth_proxy for %s: %s", issuer.Host, byHand)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%d sites in the running config have the handler oauth_proxy for %s: %s", len(found), issuer.Host, byHand)
}

func dig(v any, keys ...string) any {
	for _, key := range keys {
		m, _ := v.(map[string]any)
		v = m[key]
	}
	return v
}

// listensOn reports whether a server listens on the port of a URL. Port ranges and placeholders count as all ports.
func listensOn(server map[string]any, u *url.URL) bool {
	want := u.Port()
	if want == "" {
		want = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	listen, _ := server["listen"].([]any)
	return len(listen) == 0 || slices.ContainsFunc(listen, func(l any) bool {
		address, _ := l.(string)
		if _, rest, ok := strings.Cut(address, "/"); ok {
			address = rest
		}
		_, port, err := net.SplitHostPort(address)
		return err != nil || port == want || strings.ContainsAny(port, "-{")
	})
}

// search looks for the handler oauth_proxy in the routes for a host.
type search struct {
	host  string
	found *[]*place
}

// routes looks through the routes of a server or a subroute.
func (s search) routes(owner map[string]any, path string) {
	list, _ := owner["routes"].([]any)
	for i, r := range list {
		route, _ := r.(map[string]any)
		if !matchesHost(route, s.host) {
			continue
		}
		at := path + "/routes/" + strconv.Itoa(i) + "/handle"
		handlers, _ := route["handle"].([]any)
		for k := range handlers {
			switch handler := handlerAt(handlers, k); handler["handler"] {
			case "oauth_proxy":
				p := beforeFilterIn(handlers, at, k+1)
				if p == nil {
					p = beforeFilter(owner, path, i+1)
				}
				if p == nil {
					p = &place{path: at, list: handlers, index: k + 1, put: func(longer []any) { route["handle"] = longer }}
				}
				*s.found = append(*s.found, p)
			case "subroute":
				s.routes(handler, at+"/"+strconv.Itoa(k))
			}
		}
	}
}

// beforeFilter finds the first route with an mcp_filter that nothing in front of it narrows down.
func beforeFilter(owner map[string]any, path string, from int) *place {
	list, _ := owner["routes"].([]any)
	for i := from; i < len(list); i++ {
		route, _ := list[i].(map[string]any)
		handlers, _ := route["handle"].([]any)
		for k := range handlers {
			if handlerAt(handlers, k)["handler"] == "mcp_filter" {
				return &place{path: path + "/routes", list: list, index: i, routes: true, put: func(longer []any) { owner["routes"] = longer }}
			}
		}
		if route["match"] != nil || route["group"] != nil {
			continue
		}
		if p := beforeFilterIn(handlers, path+"/routes/"+strconv.Itoa(i)+"/handle", 0); p != nil {
			return p
		}
	}
	return nil
}

// beforeFilterIn is beforeFilter for the subroutes among some handlers.
func beforeFilterIn(handlers []any, path string, from int) *place {
	for k := from; k < len(handlers); k++ {
		if handler := handlerAt(handlers, k); handler["handler"] == "subroute" {
			if p := beforeFilter(handler, path+"/"+strconv.Itoa(k), 0); p != nil {
				return p
			}
		}
	}
	return nil
}

func handlerAt(handlers []any, i int) map[string]any {
	handler, _ := handlers[i].(map[string]any)
	return handler
}

// matchesHost reports whether a route takes every request for a host. Of a route that asks for more than the host, nobody knows.
func matchesHost(route map[string]any, host string) bool {
	sets, _ := route["match"].([]any)
	if len(sets) == 0 {
		return true
	}
	return slices.ContainsFunc(sets, func(s any) bool {
		set, _ := s.(map[string]any)
		hosts, _ := set["host"].([]any)
		return len(set) == 1 && slices.ContainsFunc(hosts, func(h any) bool {
			pattern, _ := h.(string)
			if parent, ok := strings.CutPrefix(pattern, "*."); ok {
				_, rest, _ := strings.Cut(host, ".")
				return strings.EqualFold(parent, rest)
			}
			return strings.EqualFold(pattern, host)
		})
	})
}
