package config

import (
	"cmp"
	"net/netip"
	"path/filepath"
	"slices"

	"fairlead"
)

// A host is where a spot listens, as far as it takes part in a conflict.
// Hosts that are not comparable never conflict.
type host struct {
	scope string // "" is this host; else a place or a kind of its own
	any   bool   // every address of both families
	addr  netip.Addr
	where string // an interface; "" with an invalid addr: loopback of both families
	unix  string
	net   fairlead.Network
}

// A span is ports of one host that belong to one forward.
type span struct {
	key   uint64 // host, first and last port, from the highest bits down
	entry int32  // into the loader's entries
}

func newSpan(host int32, first, last uint16, entry int) span {
	return span{uint64(host)<<32 | uint64(first)<<16 | uint64(last), int32(entry)}
}

func (s span) host() int32   { return int32(s.key >> 32) }
func (s span) first() uint16 { return uint16(s.key >> 16) }
func (s span) last() uint16  { return uint16(s.key) }

// checkOverlaps notes forwards that listen at the same place. It sorts the
// spans of each host once and looks every span up among the hosts that cover
// its own, so that ten thousand forwards cost little more than reading them.
func (l *loader) checkOverlaps() {
	var (
		ids   = map[host]int32{}
		hosts []host
		spans = make([]span, 0, len(l.entries)+16)
	)
	lastHost, lastID := host{}, int32(-1)
	id := func(h host) int32 {
		if lastID >= 0 && h == lastHost {
			return lastID
		}
		n, ok := ids[h]
		if !ok {
			n = int32(len(hosts))
			ids[h] = n
			hosts = append(hosts, h)
		}
		lastHost, lastID = h, n
		return n
	}
	for i := range l.entries {
		f := l.entries[i].f
		if f == nil || f.Disabled {
			continue
		}
		h, ok := l.hostOf(f)
		if !ok {
			continue
		}
		if h.unix != "" {
			spans = append(spans, newSpan(id(h), 0, 0, i))
			continue
		}
		for n := fairlead.TCP; n <= fairlead.UDP; n <<= 1 {
			if f.At.Net&n == 0 {
				continue
			}
			h.net = n
			at := id(h)
			for _, r := range f.At.Ports {
				spans = append(spans, newSpan(at, r.First, r.Last, i))
			}
		}
	}
	slices.SortFunc(spans, func(a, b span) int {
		switch {
		case a.key < b.key:
			return -1
		case a.key > b.key:
			return 1
		}
		return int(a.entry - b.entry)
	})

	clashes := map[int32]int32{} // the later entry, the earliest one it meets
	clash := func(a, b int32) {
		if a == b {
			return
		}
		if a > b {
			a, b = b, a
		}
		if was, ok := clashes[b]; !ok || a < was {
			clashes[b] = a
		}
	}
	begin := make([]int32, len(hosts)+1) // of each host's spans
	reach := make([]int32, len(spans))   // the span up to here that ends last
	for i, s := range spans {
		begin[s.host()+1] = int32(i + 1)
		reach[i] = int32(i)
		if i == 0 || spans[i-1].host() != s.host() {
			continue
		}
		far := reach[i-1]
		if spans[far].last() >= s.first() {
			clash(spans[far].entry, s.entry)
		}
		if spans[far].last() >= s.last() {
			reach[i] = far
		}
	}
	var covers []int32
	for at := range hosts {
		covers = covers[:0]
		for _, h := range l.covers(hosts[at]) {
			if n, ok := ids[h]; ok {
				covers = append(covers, n)
			}
		}
		if len(covers) == 0 {
			continue
		}
		for i := begin[at]; i < begin[at+1]; i++ {
			s := spans[i]
			for _, c := range covers {
				among := spans[begin[c]:begin[c+1]]
				n, _ := slices.BinarySearchFunc(among, int(s.last())+1, func(x span, last int) int { return cmp.Compare(int(x.first()), last) })
				if n == 0 {
					continue
				}
				if far := spans[reach[int(begin[c])+n-1]]; far.last() >= s.first() {
					clash(far.entry, s.entry)
				}
			}
		}
	}
	if len(clashes) == 0 {
		return
	}
	var later []int32
	for b := range clashes {
		later = append(later, b)
	}
	slices.Sort(later)
	for _, b := range later {
		l.overlap(int(clashes[b]), int(b))
	}
}

// hostOf is where a forward listens, if it excludes others from there.
// Pinholes and triggers do not listen: several of them may name one port.
func (l *loader) hostOf(f *fairlead.Forward) (host, bool) {
	h := host{where: f.At.Where}
	switch f.Kind {
	case fairlead.KindRemote:
		h.scope = "place " + f.At.Where
	case fairlead.KindMap:
		h.scope = "map"
	case fairlead.KindHelper:
		h.scope = "helper"
		if f.At.Group.IsValid() {
			h.scope = "group " + f.At.Group.String()
		}
	case fairlead.KindForward, fairlead.KindNAT, fairlead.KindLocal, fairlead.KindDynamic, fairlead.KindSSHD, fairlead.KindTunnel:
		if _, ok := l.places[f.At.Where]; ok && f.At.Where != "" {
			h.scope = "place " + f.At.Where
		}
	default:
		return h, false
	}
	h.any = f.At.Any || f.At.Addr.Is6() && f.At.Addr.IsUnspecified()
	if !h.any {
		h.addr = f.At.Addr
	}
	if f.At.Unix != "" {
		h.unix = filepath.Clean(f.At.Unix)
	}
	return h, true
}

// covers are the other hosts that listen, besides others, where h does.
func (l *loader) covers(h host) []host {
	if h.any || h.unix != "" {
		return nil
	}
	all := host{scope: h.scope, any: true, net: h.net}
	v4 := host{scope: h.scope, addr: netip.IPv4Unspecified(), net: h.net}
	loopback := host{scope: h.scope, net: h.net}
	switch {
	case h.addr == v4.addr:
		return []host{all}
	case h.addr == ip4Loopback:
		return []host{all, v4, loopback}
	case h.addr == ip6Loopback:
		return []host{all, loopback}
	case h.addr.Is4():
		return []host{all, v4}
	case h.addr.IsValid():
		return []host{all}
	case h.where == "":
		return []host{all, v4}
	}
	list := []host{all, v4}
	if slices.Contains(l.file.WAN, h.where) {
		list = append(list, host{scope: h.scope, where: "wan", net: h.net})
	}
	if slices.Contains(l.file.LAN, h.where) {
		list = append(list, host{scope: h.scope, where: "lan", net: h.net})
	}
	return list
}

// overlap tells of two entries that listen at the same place.
func (l *loader) overlap(a, b int) {
	if l.list.full() {
		l.list.more++
		return
	}
	first, second := &l.entries[a], &l.entries[b]
	line := "line " + itoa(int(second.line))
	if first.src != second.src {
		line = second.src.name + ":" + itoa(int(second.line))
	}
	m := l.list.add(fairlead.CodeOverlap, second.src, second.at.token(second.src), "%s (%s, %s) overlaps %s (%s, %s)",
		line, second.f.Name, inFull(&second.f.At), l.lineOf(second.src, a), first.f.Name, inFull(&first.f.At))
	if free := without(second.f.At.Ports, first.f.At.Ports); len(free) > 0 {
		at := second.f.At
		at.Ports = free
		c := *second.f
		c.At = at
		m.fix("leave it the other ports", Line(&c))
	}
	m.fix("switch one of them off", "fairlead disable "+second.f.Name)
}

// without is the ports of a that b has not.
func without(a, b fairlead.PortList) fairlead.PortList {
	var left fairlead.PortList
	for _, r := range a {
		first := int(r.First)
		for n := first; n <= int(r.Last)+1; n++ {
			taken := n > int(r.Last) || slices.ContainsFunc(b, func(x fairlead.Ports) bool { return int(x.First) <= n && n <= int(x.Last) })
			if !taken {
				continue
			}
			if first < n {
				left = append(left, fairlead.Ports{First: uint16(first), Last: uint16(n - 1)})
			}
			first = n + 1
		}
	}
	return left
}

// inFull is a spot with its network even where that need not be named: here it
// is half of the matter.
func inFull(s *fairlead.Spot) string {
	if s.Net == fairlead.TCP && len(s.Ports) > 0 {
		return s.String() + "/tcp"
	}
	return s.String()
}
