package tokenstore

import "testing"

func TestEveryKindHasTheKeyOfItsRecords(t *testing.T) {
	t.Parallel()
	records := map[Kind]Record{}
	for _, r := range []Record{new(SigningKeys), new(Login), new(Code), new(Assertion), new(SignIn), new(Job), new(Client), new(Grant), new(Account), new(Consent), new(Registration),
		new(APIKey), new(RevocationOrder), new(Event), new(auditSegment), new(auditHead)} {
		records[r.layout().kind] = r
	}
	for _, kind := range Kinds() {
		r, known := records[kind]
		switch use, sealed := uses[kind]; {
		case kind == KindKeyring:
			if sealed {
				t.Errorf("%s is sealed by a key of its own", kind)
			}
		case !known:
			t.Errorf("%s: this test does not know its records", kind)
		case use != r.layout().use:
			t.Errorf("%s: rows are sealed for %q, and looked at for %q: a rekey leaves them out", kind, r.layout().use, use)
		}
	}
}
