// Package bench compares the gateway with plain reverse_proxy of the same Caddy: real processes from real Caddyfiles on the loopback interface, in turns, so that whatever
// else the machine does meets all of them. `make bench` runs it at full size and writes docs/performance.md; without that, its benchmarks are small, and only show that they still run.
package bench

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/internal/testenv"
)

var (
	grants  = flag.Int("grants", 1000, "how many grants the vault has")
	sizes   = flag.String("sizes", "1000,2000", "how many grants the vaults of BenchmarkGrowth have")
	clients = flag.Int("clients", 32, "how many connections call at the same time")
	turn    = flag.Duration("turn", 200*time.Millisecond, "how long each target is measured in a round")
	keep    = flag.String("keep", "", "where the CPU profile of the gateway is kept, and beside it those of allocations and of reverse_proxy")
	streams = flag.String("streams", "100", "how many event streams BenchmarkStreams has open, one number after another")
	only    = flag.Int("only", 0, "how many targets BenchmarkRequests has, of the first; all when zero")
	write   = flag.String("write", "", "the Markdown `file` whose tables are to be replaced; plots go beside it")
)

func TestMain(m *testing.M) {
	if os.Getenv(asUpstream) != "" {
		serveUpstream()
		return
	}
	testenv.Main(m)
}
