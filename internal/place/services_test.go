package place

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
)

func TestServiceRecordsAreFoundAndFollowed(t *testing.T) {
	s := lab.ServeNames(t)
	n := NewNames([]netip.AddrPort{s.At})
	t.Cleanup(n.Close)
	s.Services("_db._tcp.x.test", 1,
		lab.ServiceRecord{Host: "a.x.test", Port: 5432, Priority: 10, Weight: 60},
		lab.ServiceRecord{Host: "b.x.test", Port: 5433, Priority: 20, Weight: 0})
	s.Services("_no._tcp.x.test", 60, lab.ServiceRecord{Host: "."})
	s.Addrs("_db._tcp.x.test.a", 60, "127.0.0.1")

	look := func() []Service {
		t.Helper()
		list, err := n.Services(t.Context(), "_DB._tcp.x.test")
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(list, func(a, b Service) int { return cmp.Compare(a.Priority, b.Priority) })
		return list
	}
	want := []Service{{"a.x.test", 5432, 10, 60}, {"b.x.test", 5433, 20, 0}}
	if got := look(); !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	s.Services("_db._tcp.x.test", 3600, lab.ServiceRecord{Host: "c.x.test", Port: 1})
	s.Fail(true)
	for limit := time.Now().Add(2 * time.Second); time.Now().Before(limit); <-time.After(50 * time.Millisecond) {
		if got := look(); !slices.Equal(got, want) {
			t.Fatalf("while lookups fail: got %v, want the last good ones", got)
		}
	}
	s.Fail(false)
	for limit := time.Now().Add(20 * time.Second); !slices.Equal(look(), []Service{{"c.x.test", 1, 0, 0}}); <-time.After(50 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("the new record is not found: %v", look())
		}
	}
	for name, what := range map[string]string{
		"_no._tcp.x.test": `no service record for "_no._tcp.x.test" (said not to be offered by ` + s.At.String() + `)`,
		"_ni._tcp.x.test": `no service record for "_ni._tcp.x.test" (NXDOMAIN from ` + s.At.String() + `)`,
	} {
		_, err := n.Services(t.Context(), name)
		wantProblem(t, err, fairlead.CodeNameUnknown, what, nil, fairlead.NameUnknown)
	}
}
