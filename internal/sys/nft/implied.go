package nft

import "slices"

// withoutImplied leaves out what nft puts before an expression because it looks
// at one kind of packet only, and does not write either.
func withoutImplied(list []Expr) []Expr {
	var kept []Expr
	var next Expr // the nearest one that is kept
	for i := len(list) - 1; i >= 0; i-- {
		if next != nil && implies(next, list[i]) {
			continue
		}
		next = list[i]
		kept = append(kept, next)
	}
	slices.Reverse(kept)
	return kept
}

// implies reports whether nft puts the comparison before e by itself.
func implies(e, before Expr) bool {
	is, ok := before.(Is)
	if !ok || is.Not || len(is.Values) != 1 || !is.Values[0].one() || len(is.Values[0].First) != 1 {
		return false
	}
	n := is.Values[0].First[0]
	if r, ok := e.(Reject); ok && r.With == rejectReset {
		return is.Key == L4Proto && n == 6
	}
	for _, k := range keysOf(e) {
		switch k {
		case IPSaddr, IPDaddr:
			if is.Key == NFProto && Family(n) == IPv4 {
				return true
			}
		case IP6Saddr, IP6Saddr64, IP6Daddr:
			if is.Key == NFProto && Family(n) == IPv6 {
				return true
			}
		case ICMPType:
			if is.Key == NFProto && Family(n) == IPv4 || is.Key == L4Proto && n == 1 {
				return true
			}
		case ICMPv6Type:
			if is.Key == NFProto && Family(n) == IPv6 || is.Key == L4Proto && n == 58 {
				return true
			}
		}
	}
	return false
}

// keysOf are the keys that an expression looks at.
func keysOf(e Expr) []Key {
	switch e := e.(type) {
	case Is:
		return []Key{e.Key}
	case Has:
		return []Key{e.Key}
	case In:
		return e.Keys
	case VMap:
		return e.Keys
	case Update:
		return append(slices.Clone(e.Keys), e.DataKeys...)
	case DNAT:
		if c := e.Choose; c != nil {
			switch c.By {
			case BySource:
				return []Key{sourceOf(e.Family)}
			case ByKey:
				return []Key{c.Key}
			}
		}
		return e.Keys
	}
	return nil
}
