package talk

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead"
)

// Bytes is an amount of data in decimal units: "0 B", "1.2 MB", "40 GB".
func Bytes(n int64) string {
	if n < 0 {
		return "-" + bytesOf(-uint64(n))
	}
	return bytesOf(uint64(n))
}

func bytesOf(n uint64) string {
	if n < 1000 {
		return strconv.FormatUint(n, 10) + " B"
	}
	v := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB"} {
		if v /= 1000; v < 9.95 {
			return fmt.Sprintf("%.1f %s", v, unit)
		} else if v < 999.5 {
			return fmt.Sprintf("%.0f %s", v, unit)
		}
	}
	return fmt.Sprintf("%.1f EB", v/1000)
}

// Duration is a length of time in at most two units, cut and not rounded:
// "3 d 4 h", "2 min", "12 s", "40 ms".
func Duration(d time.Duration) string {
	if d < 0 {
		if d == -1<<63 {
			d++
		}
		return "-" + Duration(-d)
	}
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return "0 s"
	case d < 100*time.Microsecond:
		return "under 0.1 ms"
	case d < 10*time.Millisecond:
		return tenths(d, time.Millisecond) + " ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < 10*time.Second:
		return tenths(d, time.Second) + " s"
	case d < time.Minute:
		return two(d, time.Second, "s", 0, "")
	case d < time.Hour:
		return two(d, time.Minute, "min", time.Second, "s")
	case d < day:
		return two(d, time.Hour, "h", time.Minute, "min")
	}
	return two(d, day, "d", time.Hour, "h")
}

// tenths is d in units with one decimal, which is left away when it is 0.
func tenths(d, unit time.Duration) string {
	n := int64(d / (unit / 10))
	if n%10 == 0 {
		return strconv.FormatInt(n/10, 10)
	}
	return fmt.Sprintf("%d.%d", n/10, n%10)
}

func two(d, big time.Duration, bigName string, small time.Duration, smallName string) string {
	s := fmt.Sprintf("%d %s", d/big, bigName)
	if small > 0 && d%big >= small {
		s += fmt.Sprintf(" %d %s", d%big/small, smallName)
	}
	return s
}

// Count is a number with its noun, which is given in the singular:
// "1 connection", "3 connections", "2 addresses".
func Count[N int | int64](n N, noun string) string {
	s := strconv.FormatInt(int64(n), 10) + " " + noun
	if n == 1 {
		return s
	}
	switch {
	case strings.HasSuffix(noun, "y") && len(noun) > 1 && !strings.ContainsRune("aeiou", rune(noun[len(noun)-2])):
		return strings.TrimSuffix(s, "y") + "ies"
	case strings.HasSuffix(noun, "s"), strings.HasSuffix(noun, "x"),
		strings.HasSuffix(noun, "ch"), strings.HasSuffix(noun, "sh"):
		return s + "es"
	}
	return s + "s"
}

// Reach says who can reach what listens at a spot.
func Reach(at *fairlead.Spot) string {
	switch {
	case at.Unix != "":
		return "programs on this machine that may open the socket"
	case at.Loopback():
		return "programs on this machine only"
	case at.Any || at.Addr == netip.IPv6Unspecified():
		return "everybody who can reach this machine"
	case at.Addr == netip.IPv4Unspecified():
		return "everybody who can reach this machine over IPv4"
	case at.Addr.IsValid():
		return "everybody who can reach " + at.Addr.String()
	case at.Where == "wan":
		return "everybody who can reach this machine on its WAN side"
	case at.Where == "lan":
		return "everybody who can reach this machine on its LAN side"
	}
	return "everybody who can reach " + at.Where
}

// ReachOf is Reach with the client addresses to which f is limited.
func ReachOf(f *fairlead.Forward) string {
	if f.Kind == fairlead.KindTrigger {
		return "everybody, as long as a host of the LAN has it open"
	}
	s := Reach(&f.At)
	only := slices.Clone(f.Policy.Allow)
	for i := range f.To {
		if len(f.To[i].From) == 0 {
			// This target takes all clients that no other one claims.
			only = slices.Clone(f.Policy.Allow)
			break
		}
		only = append(only, f.To[i].From...)
	}
	return s + listed(", from ", only, " only") + listed(", but not from ", f.Policy.Deny, "")
}

func listed(before string, prefixes []netip.Prefix, after string) string {
	var words []string
	for _, p := range prefixes {
		w := p.String()
		if p.IsSingleIP() {
			w = p.Addr().String()
		}
		if !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	if len(words) == 0 {
		return ""
	}
	return before + strings.Join(words, ", ") + after
}

// Summary counts forwards by how they stand: "12 forwards, 11 ok, 1 broken".
func Summary(states []fairlead.State) string {
	n := map[string]int{}
	for _, s := range states {
		n[class(s)]++
	}
	s := Count(len(states), "forward")
	for _, c := range []string{"ok", "broken", "partial", "disabled"} {
		if n[c] > 0 {
			s += fmt.Sprintf(", %d %s", n[c], c)
		}
	}
	return s
}

func class(s fairlead.State) string {
	switch s {
	case fairlead.Broken, fairlead.Partial, fairlead.Disabled:
		return string(s)
	}
	return "ok"
}
