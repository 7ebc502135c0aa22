package fairlead

import (
	"strconv"
	"testing"
)

func TestCodePointsHaveOneName(t *testing.T) {
	for text, want := range map[string]DSCP{
		"ef": "ef", "46": "ef", "0": "cs0", "be": "cs0", "default": "cs0", "cs7": "cs7", "10": "af11", "af43": "af43", "7": "7", "63": "63", "1": "le",
	} {
		got, ok := ParseDSCP(text)
		if got != want || !ok {
			t.Errorf("%s is %s, %v, want %s", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "64", "-1", "07", "+7", "af14", "EF ", "cs8", "0x2e", "99999999999999999999"} {
		if got, ok := ParseDSCP(text); ok {
			t.Errorf("%q is %s", text, got)
		}
	}
	for n := range 64 {
		d, ok := ParseDSCP(strconv.Itoa(n))
		if v, known := d.Value(); !ok || !known || v != n {
			t.Errorf("%d is %s, which is %d", n, d, v)
		}
	}
}
