package operator

import (
	"strings"
	"testing"

	"github.com/caddy-oauth-proxy/caddy-oauth-proxy/tokenstore"
)

func TestT79CellsThatASpreadsheetWouldReckonWithBeginWithAnApostrophe(t *testing.T) {
	t.Parallel()
	for name, formula := range map[string]bool{
		"=1+1": true, "+1": true, "-1": true, "@SUM(A1)": true, "\t=1": true, "\r=1": true, "\n=1": true, "＝1+1": true, "＋1": true, "－1": true, "＠SUM(A1)": true,
		"": false, "Bot": false, "a=1": false, "\xff": false, "ä": false,
	} {
		var b strings.Builder
		if err := exportCSV(&b)([]*tokenstore.Event{{Client: name}}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(b.String(), "'"+name); got != formula {
			t.Errorf("%q: %s", name, b.String())
		}
	}
}
