package fairlead

import (
	"slices"
	"strconv"
)

// A DSCP is a differentiated services code point in its canonical words: the
// name where it has one (ef, af11, cs0 …; RFC 2474, 2597, 3246, 5865, 8622),
// else a number up to 63. "" is none, which leaves packets as the system makes
// them.
type DSCP string

// codePoints are the names with their values, a better known name first.
var codePoints = []struct {
	name  DSCP
	value int
}{
	{"cs0", 0}, {"le", 1}, {"cs1", 8}, {"af11", 10}, {"af12", 12}, {"af13", 14},
	{"cs2", 16}, {"af21", 18}, {"af22", 20}, {"af23", 22},
	{"cs3", 24}, {"af31", 26}, {"af32", 28}, {"af33", 30},
	{"cs4", 32}, {"af41", 34}, {"af42", 36}, {"af43", 38},
	{"cs5", 40}, {"va", 44}, {"ef", 46}, {"cs6", 48}, {"cs7", 56},
	{"default", 0}, {"be", 0},
}

// ParseDSCP reads a name or a number from 0 to 63, and makes it canonical.
func ParseDSCP(text string) (DSCP, bool) {
	n, ok := DSCP(text).Value()
	if !ok {
		return "", false
	}
	for _, c := range codePoints {
		if c.value == n {
			return c.name, true
		}
	}
	return DSCP(strconv.Itoa(n)), true
}

// Value is the number. ok is false for none and for what is no code point.
func (d DSCP) Value() (n int, ok bool) {
	for _, c := range codePoints {
		if c.name == d {
			return c.value, true
		}
	}
	n, err := strconv.Atoi(string(d))
	if err != nil || n < 0 || n > 63 || strconv.Itoa(n) != string(d) {
		return 0, false
	}
	return n, true
}

// DSCPNames are the names of code points, the canonical ones.
func DSCPNames() []string {
	var names []string
	for _, c := range codePoints {
		if d, _ := ParseDSCP(string(c.name)); d == c.name {
			names = append(names, string(c.name))
		}
	}
	return slices.Clip(names)
}
