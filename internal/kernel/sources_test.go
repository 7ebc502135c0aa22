package kernel

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// naive is the class of a client as the words say: nobody who is denied, else
// the longest prefix. ok is false for the rest.
func naive(clients []client, a netip.Addr) (class int, ok bool) {
	longest := -1
	for _, cl := range clients {
		if !cl.from.Contains(a) {
			continue
		}
		if cl.deny {
			return refused, true
		}
		if cl.from.Bits() > longest {
			class, longest = cl.class, cl.from.Bits()
		}
	}
	return class, longest >= 0
}

// TestSplitTellsClientsApartAsTheWordsSay compares the pieces with what the
// words say, for prefixes that lie within one another as often as not.
func TestSplitTellsClientsApartAsTheWordsSay(t *testing.T) {
	rounds := 20000
	if testing.Short() {
		rounds = 2000
	}
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 1))
		var clients []client
		seen := map[netip.Prefix]bool{}
		for range r.IntN(12) {
			p := randomPrefix(r)
			deny := r.IntN(5) == 0
			if seen[p] && !deny {
				continue // equal prefixes are one class before they come here
			}
			seen[p] = seen[p] || !deny
			cl := client{from: p, class: 1 + r.IntN(4), deny: deny}
			if deny {
				cl.class = refused
			}
			clients = append(clients, cl)
		}
		pieces := split(clients)
		for i, p := range pieces {
			if p.last.Less(p.first) || p.first.Is4() != p.last.Is4() {
				t.Fatalf("seed %d: piece %v is none; clients %v", seed, p, clients)
			}
			if i > 0 && !pieces[i-1].last.Less(p.first) {
				t.Fatalf("seed %d: pieces %v and %v meet; clients %v", seed, pieces[i-1], p, clients)
			}
			if i > 0 && pieces[i-1].class == p.class && pieces[i-1].last.Next() == p.first {
				t.Fatalf("seed %d: pieces %v and %v are one; clients %v", seed, pieces[i-1], p, clients)
			}
		}
		// Whatever changes, changes at an end of a prefix.
		var asked []netip.Addr
		for _, cl := range clients {
			first, last := cl.from.Addr(), lastOf(cl.from)
			asked = append(asked, first, last, first.Prev(), last.Next())
		}
		for range 4 {
			asked = append(asked, randomPrefix(r).Addr())
		}
		for _, a := range asked {
			if !a.IsValid() {
				continue
			}
			class, ok := 0, false
			for _, p := range pieces {
				if a.Is4() == p.first.Is4() && !a.Less(p.first) && !p.last.Less(a) {
					class, ok = p.class, true
				}
			}
			if want, wantOK := naive(clients, a); class != want || ok != wantOK {
				t.Fatalf("seed %d: %s is of class %d, %t, and the words say %d, %t; clients %v, pieces %v", seed, a, class, ok, want, wantOK, clients, pieces)
			}
		}
	}
}

// randomPrefix is one of few addresses, so that prefixes meet often, the
// first and the last that there are among them.
func randomPrefix(r *rand.Rand) netip.Prefix {
	b := make([]byte, 4)
	if r.IntN(2) == 0 {
		b = make([]byte, 16)
	}
	for i := range b {
		b[i] = []byte{0, 0xff, 10, 0x80}[r.IntN(4)]
		if i > 1 && r.IntN(3) > 0 {
			b[i] = b[i-1]
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, r.IntN(len(b)*8+1)).Masked()
}

// TestClientsAreClassedAsTheSentenceSays has the same through the words: the
// order of targets does not matter, equal prefixes share, drained ones refuse.
func TestClientsAreClassedAsTheSentenceSays(t *testing.T) {
	f := sentence(t, "x", "nat wan:80 to 10.0.0.1 from 198.51.100.0/24, 10.0.0.2 from 198.51.100.0/25 from 198.51.100.200/32, 10.0.0.3 from 198.51.100.0/24, 10.0.0.4 from 192.0.2.0/24 drain, 10.0.0.5 deny 198.51.100.77 policy random")
	r := &route{f: f}
	if p := r.classify(); p != nil {
		t.Fatal(p)
	}
	pieces := split(r.clients)
	for client, want := range map[string][]int{
		"198.51.100.1": {1}, "198.51.100.130": {0, 2}, "198.51.100.200": {1}, "198.51.100.77": nil,
		"192.0.2.1": nil, "203.0.113.5": {4},
	} {
		a := netip.MustParseAddr(client)
		class := r.rest
		for _, p := range pieces {
			if !a.Less(p.first) && !p.last.Less(a) {
				class = p.class
			}
		}
		got := r.classes[class].targets
		if len(got) != len(want) || len(got) > 0 && (got[0] != want[0] || got[len(got)-1] != want[len(want)-1]) {
			t.Errorf("%s is led to targets %v, want %v", client, got, want)
		}
	}
}
