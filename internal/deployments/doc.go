// Package deployments is tests, and nothing else: of whether Kubernetes and Docker take the files that are written for them. They read those with the libraries of these
// programs, and need neither a cluster nor a daemon. It is a module of its own, so that nothing of them is compiled into the plugin.
//
//	cd internal/deployments && go test .
package deployments
