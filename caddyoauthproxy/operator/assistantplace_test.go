package operator

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

func TestRouteGoesWhereTheSiteServesIt(t *testing.T) {
	t.Parallel()
	const (
		gateway = `{"handler":"oauth_proxy"}`
		filter  = `{"match":[{"path":["/old"]}],"handle":[{"handler":"mcp_filter","proxy":"old"},{"handler":"reverse_proxy"}],"terminal":true}`
	)
	site := func(host, handlers string) string {
		return `{"match":[{"host":["` + host + `"]}],"handle":[{"handler":"subroute","routes":[` + handlers + `]}],"terminal":true}`
	}
	server := func(listen, routes string) string { return `{"listen":["` + listen + `"],"routes":[` + routes + `]}` }
	sub := func(routes string) string { return `{"handler":"subroute","routes":[` + routes + `]}` }
	route := func(handlers string) string { return `{"handle":[` + handlers + `]}` }
	for name, c := range map[string]struct{ servers, want string }{
		"behind oauth_proxy, where there is no filter yet": {
			`"a":` + server(":443", site("GW.test", route(gateway)+`,`+route(`{"handler":"static_response"}`))),
			"apps/http/servers/a/routes/0/handle/0/routes/0/handle/1",
		},
		"in front of what stands behind oauth_proxy in one route": {
			`"a":` + server(":443", route(`{"handler":"encode"},`+gateway+`,{"handler":"static_response"}`)),
			"apps/http/servers/a/routes/0/handle/2",
		},
		"in front of the first filter": {
			`"a":` + server(":443", site("*.test", route(gateway)+`,`+route(`{"handler":"headers"}`)+`,`+filter+`,`+filter)),
			"apps/http/servers/a/routes/0/handle/0/routes/2",
		},
		"in front of the first filter of a subroute": {
			`"a":` + server(":443", site("gw.test", route(gateway+`,`+sub(route(`{"handler":"authentication"}`)+`,`+filter)))),
			"apps/http/servers/a/routes/0/handle/0/routes/0/handle/1/routes/1",
		},
		"not in front of a filter that only some requests get to": {
			`"a":` + server(":443", site("gw.test", route(gateway)+`,{"match":[{"path":["/x"]}],"handle":[`+sub(filter)+`]},{"group":"g","handle":[`+sub(filter)+`]}`)),
			"apps/http/servers/a/routes/0/handle/0/routes/0/handle/1",
		},
		"on the server with the issuer's port": {
			`"a":` + server(":8443", site("gw.test", route(gateway))) + `,"b":` + server("tcp/0.0.0.0:443", site("gw.test", route(gateway))),
			"apps/http/servers/b/routes/0/handle/0/routes/0/handle/1",
		},
		"nowhere, where no site has the handler":                {`"a":` + server(":443", site("gw.test", filter)), "no site"},
		"nowhere, where the site is another's":                  {`"a":` + server(":443", site("a.gw.test", route(gateway))), "no site"},
		"nowhere, where only some requests get to oauth_proxy":  {`"a":` + server(":443", `{"match":[{"path":["/x"],"host":["gw.test"]}],"handle":[`+gateway+`]}`), "no site"},
		"nowhere, where there are two":                          {`"a":` + server(":443", route(gateway)) + `,"b":` + server(":443", route(gateway)), "2 sites"},
		"nowhere in what is no config at all":                   {`"a":{"routes":[1,{"handle":7},{"handle":[null,"x"]}]},"b":3`, "no site"},
		"nowhere, where a server listens elsewhere, or nowhere": {`"a":` + server("unix//run/x.sock", site("gw.test", route(`{"handler":"x"}`))), "no site"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var config map[string]any
			if err := json.Unmarshal([]byte(`{"apps":{"http":{"servers":{`+c.servers+`}}}}`), &config); err != nil {
				t.Fatal(err)
			}
			before, err := json.Marshal(config)
			if err != nil {
				t.Fatal(err)
			}
			place, err := findPlace(config, &url.URL{Scheme: "https", Host: "gw.test"})
			if err != nil {
				if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "by hand") {
					t.Errorf("got %q, want %q", err, c.want)
				}
				return
			}
			path, inserted := place.insert(map[string]any{"new": true})
			if path != c.want {
				t.Errorf("got %s, want %s", path, c.want)
			}
			if got := at(t, config, path); got["new"] != true && (got["handler"] != "subroute" || inserted == nil) {
				t.Errorf("at %s is %v", path, got)
			}
			after, err := json.Marshal(config)
			if err != nil {
				t.Fatal(err)
			}
			rest := strings.NewReplacer(`{"new":true},`, "", `,{"handler":"subroute","routes":[{"new":true}]}`, "").Replace(string(after))
			if rest != string(before) {
				t.Errorf("more than that has changed:\n%s\n%s", before, after)
			}
		})
	}
}

// at is what stands at a path of the config API.
func at(t *testing.T, v any, path string) map[string]any {
	t.Helper()
	for key := range strings.SplitSeq(path, "/") {
		switch have := v.(type) {
		case map[string]any:
			v = have[key]
		case []any:
			var i int
			if err := json.Unmarshal([]byte(key), &i); err != nil || i >= len(have) {
				t.Fatalf("%s: no %s", path, key)
			}
			v = have[i]
		}
	}
	found, _ := v.(map[string]any)
	return found
}
