// Package workflows is tests, and nothing else: of whether GitHub takes what it reads in .github, the workflows, the forms of issues, and what dependabot is told. It is a
// module of its own, apart from internal/deployments, because actionlint and the library of Docker Compose want different releases of a parser of YAML.
//
//	cd internal/workflows && go test .
package workflows
