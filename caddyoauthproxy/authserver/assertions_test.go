package authserver

import (
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestAssertionsKeptAreBounded(t *testing.T) {
	t.Parallel()
	var as assertions
	id := func(i int) assertionID { return assertionID{proxy: "a", grant: strconv.Itoa(i)} }
	for i := range 5*maxAssertions + 7 {
		as.put(id(i), assertion{text: strconv.Itoa(i)})
		if i > maxAssertions && as.get(id(i-maxAssertions)).text != strconv.Itoa(i-maxAssertions) {
			t.Fatalf("%d is gone already", i-maxAssertions)
		}
	}
	if n, o := len(as.newer), len(as.older); n > maxAssertions || o > maxAssertions || n+o < maxAssertions {
		t.Errorf("%d and %d are kept", n, o)
	}
	if got := as.get(id(0)); got.text != "" {
		t.Errorf("the first is still there: %+v", got)
	}
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			for i := range maxAssertions {
				as.put(id(n*maxAssertions+i), assertion{text: strconv.Itoa(n)})
				as.get(id(i))
			}
		})
	}
	all.Wait()
	if n, o := len(as.newer), len(as.older); n > maxAssertions || o > maxAssertions {
		t.Errorf("%d and %d are kept after parallel use", n, o)
	}
	as.put(id(-1), assertion{text: strings.Repeat("x", maxKeptAssertion+1)})
	if as.get(id(-1)).text != "" {
		t.Error("one that no server will get is kept")
	}
}
