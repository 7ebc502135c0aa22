package config

import (
	"strings"

	"fairlead"
)

// bandwidthField is a size a second each way, or with "up" or "down" behind it
// one for each direction: "10MB/s up, 1MB/s down".
type bandwidthField func(*fairlead.Forward) *fairlead.Bandwidth

func (at bandwidthField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	value := at(f)
	for {
		t, ok := p.value(word, m.Value)
		if !ok {
			return false
		}
		n, ok := p.bandwidth(t)
		if !ok {
			return false
		}
		one := p.way(value)
		if one == nil {
			if *value != (fairlead.Bandwidth{}) {
				p.bad(fairlead.CodeBadValue, t, "%s is said for one direction, and %s for both", m.Word, shown(t.text)).hint("%s up or %s down", t.text, t.text)
				return false
			}
			value.Up, value.Down = n, n
			return true
		}
		if *one != 0 {
			p.bad(fairlead.CodeTwice, t, "%s is said twice for one direction", m.Word)
			return false
		}
		*one = n
		if !p.comma() {
			return true
		}
	}
}

// way takes the direction behind a bandwidth, nil where none is named.
func (p *parser) way(value *fairlead.Bandwidth) *int64 {
	if p.i >= len(p.toks) || p.toks[p.i].first {
		return nil
	}
	// The words of a JSON string are quoted, so that none is a modifier.
	switch t := p.toks[p.i]; {
	case t.kind == tokenWord && t.text == "up":
		p.i++
		return &value.Up
	case t.kind == tokenWord && t.text == "down":
		p.i++
		return &value.Down
	}
	return nil
}

// bandwidth reads a size a second.
func (p *parser) bandwidth(t token) (int64, bool) {
	n, ok := parseSize(t.text)
	if ok {
		return n, true
	}
	number := strings.TrimRight(strings.TrimSuffix(t.text, "/s"), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit := strings.TrimSuffix(t.text, "/s")[len(number):]
	form := "write it as 64KB/s, 10MB/s or 1GiB/s"
	if isNumber(number) {
		if unit == "" {
			form = "did you mean " + number + "MB/s?"
		} else if s := nearest(unit, sizeWords); s != "" {
			form = "did you mean " + number + s + "/s?"
		}
	}
	p.badValue(t, "a bandwidth", form)
	return 0, false
}

func (at bandwidthField) said(f *fairlead.Forward) bool {
	return *at(f) != fairlead.Bandwidth{}
}

func (at bandwidthField) copy(to, from *fairlead.Forward) { *at(to) = *at(from) }

func (at bandwidthField) print(b []byte, word string, f *fairlead.Forward) []byte {
	v := at(f)
	b = append(append(append(b, ' '), word...), ' ')
	if v.Up == v.Down {
		return append(appendSize(b, v.Up), "/s"...)
	}
	if v.Up != 0 {
		b = append(appendSize(b, v.Up), "/s up"...)
		if v.Down != 0 {
			b = append(b, ", "...)
		}
	}
	if v.Down != 0 {
		b = append(appendSize(b, v.Down), "/s down"...)
	}
	return b
}

// maxWindows is more than any week needs.
const maxWindows = 64

// scheduleField is times of the day with the days before them. A time without
// days has those of the time before it, and the first one every day.
type scheduleField struct{}

func (scheduleField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	days, open := fairlead.EveryDay, false // open: days were said, and their times follow
	for {
		t, ok := p.value(word, m.Value)
		if !ok {
			return false
		}
		for at := 0; at <= len(t.text); {
			s, _, _ := strings.Cut(t.text[at:], ",")
			part := t.part(at, len(s))
			at += len(s) + 1
			if s != "" && letter(s[0]) {
				set, ok := parseDays(s)
				if !ok {
					p.badValue(part, "a day", "mon, tue, wed, thu, fri, sat or sun, or from one to another as in mon-fri")
					return false
				}
				if open {
					set |= days
				}
				days, open = set, true
				continue
			}
			w := fairlead.Window{Days: days}
			if w.From, w.To, ok = parseHours(s); !ok {
				p.badValue(part, "a time of the day", "write it as 08:00-18:00, or 22:00-06:00 into the next day; 00:00-24:00 is all of it")
				return false
			}
			if open = false; len(f.Policy.Schedule) == maxWindows {
				p.bad(fairlead.CodeBadValue, part, "a schedule has at most %d times", maxWindows)
				return false
			}
			f.Policy.Schedule = append(f.Policy.Schedule, w)
		}
		if !p.comma() && !open {
			return true
		}
	}
}

var dayWords = [...]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// parseDays reads one day or a range of days, which may go over Sunday.
func parseDays(s string) (set uint8, ok bool) {
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	from, to := -1, -1
	for i, d := range dayWords {
		if strings.EqualFold(d, first) {
			from = i
		}
		if strings.EqualFold(d, last) {
			to = i
		}
	}
	if from < 0 || to < 0 || ranged && from == to {
		return 0, false
	}
	for d := from; ; d = (d + 1) % len(dayWords) {
		set |= 1 << d
		if d == to {
			return set, true
		}
	}
}

// parseHours reads "08:00-18:00" as minutes since midnight.
func parseHours(s string) (from, to int, ok bool) {
	a, b, _ := strings.Cut(s, "-")
	from, ok1 := parseClock(a)
	to, ok2 := parseClock(b)
	if !ok1 || !ok2 || from == to || from == 24*60 {
		return 0, 0, false
	}
	if to == 0 {
		to = 24 * 60
	}
	return from, to, true
}

// parseClock reads "8:00", "08:00", up to "24:00".
func parseClock(s string) (minutes int, ok bool) {
	h, m, _ := strings.Cut(s, ":")
	if len(h) < 1 || len(h) > 2 || len(m) != 2 || !isNumber(h) || !isNumber(m) {
		return 0, false
	}
	number := func(s string) (n int) {
		for i := range len(s) {
			n = n*10 + int(s[i]-'0')
		}
		return n
	}
	minutes = number(h)*60 + number(m)
	return minutes, number(m) < 60 && minutes <= 24*60
}

func (scheduleField) said(f *fairlead.Forward) bool   { return len(f.Policy.Schedule) > 0 }
func (scheduleField) copy(to, from *fairlead.Forward) { to.Policy.Schedule = from.Policy.Schedule }

func (scheduleField) print(b []byte, word string, f *fairlead.Forward) []byte {
	b = append(append(append(b, ' '), word...), ' ')
	for i, w := range f.Policy.Schedule {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, w.String()...)
	}
	return b
}
