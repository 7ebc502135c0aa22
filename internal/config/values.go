package config

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"fairlead"
)

func itoa(n int) string { return strconv.Itoa(n) }

// timeUnits are the units of durations, the largest first.
var timeUnits = []struct {
	word string
	unit time.Duration
}{
	{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond},
}

// maxDuration is ten years: more is a slip of the pen.
const maxDuration = 10 * 365 * 24 * time.Hour

// parseDuration reads 500ms, 2s, 5m, 1h, 2d, and 1h30m. It is > 0.
func parseDuration(text string) (time.Duration, bool) {
	var sum time.Duration
	last := maxDuration
	for text != "" {
		n := 0
		for n < len(text) && digit(text[n]) {
			n++
		}
		if n == 0 || n > 9 {
			return 0, false
		}
		value, _ := strconv.Atoi(text[:n])
		text = text[n:]
		n = 0
		for n < len(text) && letter(text[n]) {
			n++
		}
		unit := time.Duration(0)
		for _, u := range timeUnits {
			if u.word == text[:n] {
				unit = u.unit
			}
		}
		if unit == 0 || unit >= last {
			return 0, false
		}
		last = unit
		text = text[n:]
		if time.Duration(value) > maxDuration/unit {
			return 0, false
		}
		sum += time.Duration(value) * unit
	}
	return sum, sum > 0 && sum <= maxDuration
}

// appendDuration writes a duration with the largest unit that fits, "off" for
// [fairlead.Off].
func appendDuration(b []byte, d time.Duration) []byte {
	if d == fairlead.Off {
		return append(b, "off"...)
	}
	for _, u := range timeUnits {
		if d%u.unit == 0 {
			return append(strconv.AppendInt(b, int64(d/u.unit), 10), u.word...)
		}
	}
	// Nothing that was parsed gets here: a duration made by a program is
	// written as near as the grammar allows, and never as nothing.
	ms := max(d.Round(time.Millisecond), time.Millisecond)
	return append(strconv.AppendInt(b, int64(ms/time.Millisecond), 10), "ms"...)
}

// sizeUnits are the units of sizes, those in which one is preferably printed
// first.
var sizeUnits = []struct {
	word string
	unit int64
}{
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3},
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1},
}

var sizeWords = func() (words []string) {
	for _, u := range sizeUnits {
		words = append(words, u.word)
	}
	return words
}()

// parseSize reads 64KB, 10MiB, 10MB/s. It is > 0.
func parseSize(text string) (int64, bool) {
	text = strings.TrimSuffix(text, "/s")
	n := 0
	for n < len(text) && digit(text[n]) {
		n++
	}
	if n == 0 || n > 15 {
		return 0, false
	}
	value, _ := strconv.ParseInt(text[:n], 10, 64)
	for _, u := range sizeUnits {
		if u.word == text[n:] {
			return value * u.unit, value > 0 && value <= 1<<62/u.unit
		}
	}
	return 0, false
}

func appendSize(b []byte, n int64) []byte {
	best := 0
	for i, u := range sizeUnits {
		if n%u.unit == 0 && (best == 0 && sizeUnits[best].unit > 1 && n%sizeUnits[best].unit != 0 || n/u.unit < n/sizeUnits[best].unit) {
			best = i
		}
	}
	if n%sizeUnits[best].unit != 0 {
		best = len(sizeUnits) - 1
	}
	return append(strconv.AppendInt(b, n/sizeUnits[best].unit, 10), sizeUnits[best].word...)
}

// parsePrefix reads a network or a single address, in brackets or without,
// and clears the bits behind the mask.
func parsePrefix(text string) (netip.Prefix, bool) {
	if strings.HasPrefix(text, "[") {
		addr, bits, _ := strings.Cut(text[1:], "]")
		text = addr + bits
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		return p.Masked(), true
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), true
}

// appendPrefix writes a network; one address without its length.
func appendPrefix(b []byte, p netip.Prefix) []byte {
	if p.IsSingleIP() {
		return p.Addr().AppendTo(b)
	}
	return p.AppendTo(b)
}

func prefixText(p netip.Prefix) string { return string(appendPrefix(nil, p)) }

// appendWord writes a value so that it is read as the same one word.
func appendWord(b []byte, s string) []byte {
	if s != "" && strings.IndexAny(s, " \t\"{}\\#,") < 0 {
		return append(b, s...)
	}
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

func quoted(s string) string { return strconv.Quote(s) }
