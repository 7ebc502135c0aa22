package talk

import (
	"strings"
	"time"

	"fairlead"
)

// A Detail is everything about one forward, for "fairlead status NAME". Texts
// may be foreign; what is empty or zero is left away.
type Detail struct {
	Name     string
	State    fairlead.State
	Sentence string // what can be typed after "fairlead"
	Written  string // file and line
	Owner    string
	Carrier  string
	Because  string // why that one, "the kernel, because …", where that was left open
	Bound    []string
	Reach    string // from Reach or ReachOf
	Targets  []TargetRow
	Expires  time.Duration // from now; 0: never

	Engine     string // what in the process carries it
	Congestion string // congestion control, where it is not simply the host's

	Active, Queued, Flows, Refused, Dropped int64
	In, Out                                 int64 // bytes from and to clients

	Problem *fairlead.Problem
}

// A TargetRow is what is known of one target.
type TargetRow struct {
	Target string
	Up     bool
	Error  string // why it is not up; "" with Up false: not tried yet
	Since  time.Duration
	Left   time.Duration // until a trigger's ports close for that host; 0: of others

	Active   int64 // connections now
	Backup   bool
	Draining bool // it gets no new connections
	Gone     bool // DNS names it no more
	Member   bool
}

// Forward prints everything about one forward as labels and values.
func (p *Printer) Forward(d Detail) error {
	l := p.out
	var b strings.Builder
	f := fields{look: l, plain: p.conf.Plain, b: &b}
	glyph, colour := l.stateMark(d.State)
	state := l.cut(l.inert(string(d.State)), 12)
	f.text("name", d.Name)
	if p.conf.Plain {
		f.text("state", state)
	} else {
		writeLine(&b, pad("state", fieldWidth)+l.paint(colour, glyph+" "+state))
	}
	f.whole("sentence", d.Sentence)
	f.text("written", d.Written)
	f.text("owner", d.Owner)
	if d.Because != "" && !f.plain {
		f.text("carried", "by "+d.Because)
	} else {
		f.text("carried", prefixed("by ", d.Carrier))
		f.text("because", d.Because)
	}
	f.text("listening", strings.Join(d.Bound, ", "))
	f.text("reach", d.Reach)
	f.text("engine", d.Engine)
	f.text("congestion", d.Congestion)
	label := "targets"
	for _, t := range d.Targets {
		if !f.plain {
			f.target(label, t)
			label = ""
			continue
		}
		kind := "target"
		if t.Member {
			kind = "member"
		}
		l.tabs(&b, kind, t.Target, t.word(), decimal(int64(t.Since/time.Second)), t.Error, decimal(t.Active))
	}
	if f.plain {
		for _, n := range []struct {
			label string
			n     int64
		}{
			{"active", d.Active}, {"queued", d.Queued}, {"flows", d.Flows}, {"refused", d.Refused}, {"dropped", d.Dropped},
			{"in", d.In}, {"out", d.Out}, {"expires", int64(d.Expires / time.Second)},
		} {
			l.tabs(&b, n.label, decimal(n.n))
		}
		if d.Problem != nil {
			l.tabs(&b, "problem", string(d.Problem.Code), d.Problem.What)
		}
		return p.give(b.String())
	}
	if d.Expires > 0 {
		f.text("ends", "in "+Duration(d.Expires))
	}
	now := Count(d.Active, "connection")
	if d.Queued > 0 {
		now += ", " + decimal(d.Queued) + " queued"
	}
	f.text("now", now)
	past := Count(d.Flows, "connection")
	if d.Refused > 0 {
		past += ", " + decimal(d.Refused) + " refused"
	}
	if d.Dropped > 0 {
		past += ", " + Count(d.Dropped, "datagram") + " dropped"
	}
	f.text("so far", past+", "+Bytes(d.In)+" in, "+Bytes(d.Out)+" out")
	if d.Problem != nil {
		b.WriteByte('\n')
		l.problem(&b, d.Problem)
	}
	return p.give(b.String())
}

const fieldWidth = 11

// fields writes labels and values.
type fields struct {
	look
	plain bool
	b     *strings.Builder
}

func (f fields) text(label, value string) {
	switch {
	case value == "":
	case f.plain:
		f.tabs(f.b, label, value)
	default:
		f.paragraph(f.b, pad(label, fieldWidth), fieldWidth, fieldWidth, value)
	}
}

// whole is text for what is copied.
func (f fields) whole(label, value string) {
	switch {
	case value == "":
	case f.plain:
		f.tabs(f.b, label, value)
	default:
		writeLine(f.b, pad(label, fieldWidth)+f.command(value))
	}
}

func (f fields) target(label string, t TargetRow) {
	state := fairlead.Broken
	switch {
	case t.Draining:
		state = fairlead.Disabled
	case t.Up:
		state = fairlead.Passing
	case t.Error == "":
		state = fairlead.Disabled
	}
	glyph, colour := f.stateMark(state)
	text := t.Target + " " + t.word()
	if t.Since > 0 && !t.Draining {
		text += " for " + Duration(t.Since)
	}
	if t.Left > 0 {
		text += ", closes in " + Duration(t.Left) + " without more traffic"
	}
	if t.Backup {
		text += ", a backup"
	}
	if t.Draining && t.Active > 0 {
		text += ", " + Count(t.Active, "connection") + " left"
	} else if t.Active > 0 {
		text += ", " + Count(t.Active, "connection")
	}
	if t.Error != "" {
		text += ": " + t.Error
	}
	indent := 0
	if t.Member {
		indent = 2
	}
	f.paragraph(f.b, pad(label, fieldWidth+indent)+f.paint(colour, glyph)+" ", fieldWidth+indent+2, fieldWidth+indent+2, text)
}

func (t TargetRow) word() string {
	switch {
	case t.Left > 0:
		return "holds it"
	case t.Gone:
		return "gone from DNS"
	case t.Draining && t.Active == 0:
		return "drained"
	case t.Draining:
		return "draining"
	case t.Up:
		return "up"
	case t.Error != "":
		return "down"
	}
	return "not tried yet"
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}
