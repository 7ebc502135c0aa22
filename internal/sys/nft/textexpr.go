package nft

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// exprText is an expression in nft(8)'s words.
func exprText(e Expr) string {
	switch e := e.(type) {
	case Is:
		return e.text()
	case Has:
		return e.text()
	case In:
		return fmt.Sprintf("%s %s@%s", keysText(e.Keys), notText(e.Not), e.Set)
	case Verdict:
		if e.Chain != "" {
			return e.Do + " " + e.Chain
		}
		return e.Do
	case VMap:
		return fmt.Sprintf("%s vmap @%s", keysText(e.Keys), e.Map)
	case DNAT:
		return e.text()
	case SNAT:
		return fmt.Sprintf("snat %s to %s", e.Family, addrText(e.Addr))
	case Masquerade:
		switch {
		case e.First == 0 && e.Last == 0:
			return "masquerade"
		case e.Last == 0, e.Last == e.First:
			return fmt.Sprintf("masquerade to :%d", e.First)
		}
		return fmt.Sprintf("masquerade to :%d-%d", e.First, e.Last)
	case Reject:
		if e.With == rejectReset {
			return "reject with tcp reset"
		}
		return "reject with icmpx " + e.With
	case Limit:
		return e.text()
	case ConnCount:
		return fmt.Sprintf("ct count %s%d", overText(e.Over), e.N)
	case Update:
		return e.text()
	case Counter:
		return countText(e.Count)
	case Log:
		return e.text()
	case SetKey:
		if e.Key == Mark {
			return fmt.Sprintf("%s set 0x%08x", e.Key.info().text, e.Value)
		}
		return fmt.Sprintf("%s set %d", e.Key.info().text, e.Value)
	case UseHelper:
		return "ct helper set " + quoted(e.Name)
	case Notrack:
		return "notrack"
	case Unknown:
		return e.Name
	}
	return fmt.Sprintf("%T", e)
}

// rejectReset is the Reject.With that answers with a TCP reset.
const rejectReset = "tcp reset"

func notText(not bool) string {
	if not {
		return "!= "
	}
	return ""
}

func overText(over bool) string {
	if over {
		return "over "
	}
	return ""
}

func keysText(keys []Key) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.info().text
	}
	return strings.Join(names, " . ")
}

func (e Is) text() string {
	k := e.Key.info()
	if len(e.Values) != 1 {
		parts := make([]string, len(e.Values))
		for i, r := range e.Values {
			parts[i] = rangeText(k.kind, r, true)
		}
		return fmt.Sprintf("%s %s{ %s }", k.text, notText(e.Not), strings.Join(parts, ", "))
	}
	value := rangeText(k.kind, e.Values[0], false)
	switch {
	case e.Not:
		return k.text + " != " + value
	case k.kind == kindCtState, k.kind == kindCtStatus:
		return k.text + " == " + value // without the sign it is a mask
	}
	return k.text + " " + value
}

func (e Has) text() string {
	k := e.Key.info()
	switch k.kind {
	case kindCtState, kindCtStatus:
		of := stateBits
		if k.kind == kindCtStatus {
			of = statusBits
		}
		if e.Not {
			return k.text + " ! " + bitsText(e.Mask, of)
		}
		return k.text + " " + bitsText(e.Mask, of)
	}
	sign := "!="
	if e.Not {
		sign = "=="
	}
	return fmt.Sprintf("%s & 0x%08x %s 0x00000000", k.text, e.Mask, sign)
}

func (e DNAT) text() string {
	to := "dnat " + e.Family.String() + " to "
	if e.Family == Inet {
		to = "dnat to "
	}
	switch {
	case e.Choose != nil:
		return to + e.Choose.text(e.Family)
	case e.Map != "":
		return to + keysText(e.Keys) + " map @" + e.Map
	case !e.Addr.IsValid():
		return fmt.Sprintf("%s:%d", to, e.Port)
	case e.Port != 0:
		return to + netip.AddrPortFrom(e.Addr.Unmap(), e.Port).String()
	}
	return to + addrText(e.Addr.Unmap())
}

// chooseSeed is what the addresses of clients are mixed with. It is always the
// same, so that a client finds its target again when the table was replaced.
const chooseSeed = 1

func (c *Choose) text(f Family) string {
	from := keysText([]Key{c.Key})
	switch c.By {
	case ByTurn:
		from = fmt.Sprintf("numgen inc mod %d", c.Mod)
	case ByChance:
		from = fmt.Sprintf("numgen random mod %d", c.Mod)
	case BySource:
		from = fmt.Sprintf("jhash %s mod %d seed 0x%x", keysText([]Key{sourceOf(f)}), c.Mod, chooseSeed)
	}
	parts := make([]string, len(c.Elements))
	for i := range c.Elements {
		parts[i] = elementText([]kind{c.kind()}, c.dataKinds(f), &c.Elements[i])
	}
	return fmt.Sprintf("%s map { %s }", from, strings.Join(parts, ", "))
}

func sourceOf(f Family) Key {
	if f == IPv6 {
		return IP6Saddr
	}
	return IPSaddr
}

func (c *Choose) kind() kind {
	if c.By == ByKey {
		return c.Key.kind()
	}
	return kindInteger
}

// dataKinds are the kinds of what the elements lead to: an address of the
// family, and a port where the elements have one.
func (c *Choose) dataKinds(f Family) []kind {
	kinds := []kind{kindIPv4}
	if f == IPv6 {
		kinds[0] = kindIPv6
	}
	if len(c.Elements) > 0 && len(c.Elements[0].Data) > 1 {
		kinds = append(kinds, kindInetService)
	}
	return kinds
}

func (e Limit) text() string {
	unit := "second"
	switch e.Per {
	case time.Minute:
		unit = "minute"
	case time.Hour:
		unit = "hour"
	}
	s := fmt.Sprintf("limit rate %s%d/%s", overText(e.Over), e.Rate, unit)
	if e.Burst != 0 {
		s += fmt.Sprintf(" burst %d packets", e.Burst)
	}
	return s
}

func (e Update) text() string {
	s := fmt.Sprintf("%s @%s { %s", e.Op, e.Set, keysText(e.Keys))
	if e.Timeout > 0 {
		s += " timeout " + spanText(e.Timeout)
	}
	for _, with := range e.With {
		s += " " + exprText(with)
	}
	if len(e.DataKeys) > 0 {
		s += " : " + keysText(e.DataKeys)
	}
	return s + " }"
}

func (e Log) text() string {
	s := "log"
	if e.Prefix != "" {
		s += " prefix " + quoted(e.Prefix)
	}
	if e.Group >= 0 {
		s += fmt.Sprintf(" group %d", e.Group)
	}
	return s
}
