package relay

import (
	"testing"
	"time"
	_ "time/tzdata"

	"fairlead"
)

const (
	weekdays = 0b0111110
	saturday = 0b1000000
	sunday   = 0b0000001
)

func TestASchedule(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	office := schedule{{Days: weekdays, From: 8 * 60, To: 18 * 60}, {Days: saturday, From: 10 * 60, To: 14 * 60}}
	nights := schedule{{Days: fairlead.EveryDay, From: 22 * 60, To: 6 * 60}}
	saturdayNight := schedule{{Days: saturday, From: 22 * 60, To: 6 * 60}}
	wholeDay := schedule{{Days: sunday, From: 0, To: 24 * 60}}
	early := schedule{{Days: sunday, From: 2*60 + 15, To: 2*60 + 45}} // left out on one Sunday, twice on another
	for _, c := range []struct {
		name string
		s    schedule
		at   string // 2026: March 29 and October 25 are the Sundays when the clock changes
		next string // "" while it is open
	}{
		{"monday morning", office, "2026-11-23 07:59", "Mon 08:00"},
		{"monday", office, "2026-11-23 08:00", ""},
		{"friday evening", office, "2026-11-20 18:00", "Sat 10:00"},
		{"saturday", office, "2026-11-21 13:59", ""},
		{"saturday evening", office, "2026-11-21 14:00", "Mon 08:00"},
		{"night", nights, "2026-11-21 22:00", ""},
		{"past midnight", nights, "2026-11-22 05:59", ""},
		{"day", nights, "2026-11-22 06:00", "Sun 22:00"},
		{"saturday's night on sunday", saturdayNight, "2026-11-22 05:00", ""},
		{"no night on sunday", saturdayNight, "2026-11-22 23:00", "Sat 22:00"},
		{"friday's morning", saturdayNight, "2026-11-21 03:00", "Sat 22:00"},
		{"last minute of a day", wholeDay, "2026-11-22 23:59", ""},
		{"the day after", wholeDay, "2026-11-23 00:00", "Sun 00:00"},
		{"always", nil, "2026-11-23 00:00", ""},
		{"before an hour that is left out", early, "2026-03-29 01:59", "Sun 02:15"},
		{"after it", early, "2026-03-29 03:20", "Sun 02:15"},
		{"night of the change", nights, "2026-03-29 03:30", ""},
		{"office after the change", office, "2026-03-30 08:00", ""},
		{"before the change", office, "2026-03-28 14:00", "Mon 08:00"},
	} {
		at, err := time.ParseInLocation("2006-01-02 15:04", c.at, berlin)
		if err != nil {
			t.Fatal(err)
		}
		p := c.s.closed(at)
		switch {
		case p == nil && c.next != "":
			t.Errorf("%s: it is open", c.name)
		case p != nil && c.next == "":
			t.Errorf("%s: %s", c.name, p.What)
		case p != nil && p.What != "outside its schedule until "+c.next:
			t.Errorf("%s: %s, want until %s", c.name, p.What, c.next)
		}
		if next := c.s.next(at); c.next != "" && !c.s.open(next) {
			t.Errorf("%s: it is not open at %s, when it is said to be", c.name, next)
		}
	}
	// The hour that comes twice is open twice.
	first := time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC).In(berlin)
	for _, at := range []time.Time{first, first.Add(time.Hour)} {
		if !early.open(at) {
			t.Errorf("closed at %s", at)
		}
	}
}
