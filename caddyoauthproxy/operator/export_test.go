package operator

// Route is a route as the tests walk them.
type Route struct{ Method, Path string }

// Routes are all that there are.
func Routes() []Route {
	var all []Route
	for _, r := range new(Server).routes() {
		all = append(all, Route{r.method, r.path})
	}
	return all
}

// Parameters are the query parameters that a route knows.
func Parameters(of Route) []string {
	for _, r := range new(Server).routes() {
		if r.method == of.Method && r.path == of.Path {
			return r.query
		}
	}
	return nil
}

// PageRoutes are all pages of operators.
func PageRoutes() []Route {
	var all []Route
	for _, r := range new(AdminPages).routes() {
		all = append(all, Route{r.method, r.path})
	}
	return all
}

// Document is the OpenAPI document.
func Document() []byte { return document }
