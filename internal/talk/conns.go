package talk

import (
	"strings"
	"time"
)

// A ConnRow is one live connection or UDP session. Texts may be foreign.
type ConnRow struct {
	ID, Forward, Client, Target string
	Asked                       string        // the name that the client asked for; "" where nobody wanted to know
	Age                         time.Duration // < 0: not known
	In, Out                     int64         // bytes from and to the client, -1: not counted
}

// unknown stands for a figure that nobody has.
const unknown = "-"

func (r *ConnRow) age() string {
	if r.Age < 0 {
		return unknown
	}
	return Duration(r.Age)
}

func plainFigure(n int64) string {
	if n < 0 {
		return unknown
	}
	return decimal(n)
}

func counted(bytes int64) string {
	if bytes < 0 {
		return unknown
	}
	return Bytes(bytes)
}

// aim is the target with the name that was asked for.
func (r *ConnRow) aim() string {
	if r.Asked == "" {
		return r.Target
	}
	return r.Target + " for " + r.Asked
}

// Conns prints live connections in the order given. Where the columns do not
// fit, the targets go to lines of their own: an address that is cut is of no
// use to anybody.
func (p *Printer) Conns(rows []ConnRow) error {
	var b strings.Builder
	if p.conf.Plain {
		for _, r := range rows {
			p.out.tabs(&b, r.ID, r.Forward, r.Client, r.Target,
				plainFigure(int64(r.Age.Seconds())), plainFigure(r.In), plainFigure(r.Out))
		}
		return p.give(b.String())
	}
	p.out.conns(&b, rows)
	return p.give(b.String())
}

func (l look) conns(b *strings.Builder, rows []ConnRow) {
	if len(rows) == 0 {
		writeLine(b, "no connections")
		return
	}
	const id, forward, client, target, age, in, out, columns = 0, 1, 2, 3, 4, 5, 6, 7
	arrow := l.arrow() + " "
	table := [][columns]string{{"id", "forward", "client", blanks(width(arrow)) + "target", "age", "in", "out"}}
	for _, r := range rows {
		row := [columns]string{l.inert(r.ID), l.inert(r.Forward), l.inert(r.Client), "",
			r.age(), counted(r.In), counted(r.Out)}
		if r.Target != "" {
			row[target] = arrow + l.inert(r.aim())
		}
		table = append(table, row)
	}
	var w [columns]int
	for _, row := range table {
		for i, s := range row {
			w[i] = max(w[i], width(s))
		}
	}
	all := 2 * (columns - 1)
	for _, n := range w {
		all += n
	}
	below := all > l.width
	indent := w[id] + 2 + w[forward] + 2
	if below && (all-w[target]-2 > l.width || indent+w[target] > l.width) {
		l.connStack(b, rows)
		return
	}
	for n, row := range table {
		line := pad(row[id], w[id]) + "  " + pad(row[forward], w[forward]) + "  " + pad(row[client], w[client])
		if !below {
			line += "  " + pad(row[target], w[target])
		}
		for _, i := range []int{age, in, out} {
			line += "  " + padLeft(row[i], w[i])
		}
		writeLine(b, line)
		if below && n > 0 && row[target] != "" {
			writeLine(b, blanks(indent)+row[target])
		}
	}
}

func (l look) connStack(b *strings.Builder, rows []ConnRow) {
	for _, r := range rows {
		l.paragraph(b, "", 0, 2, r.ID+"  "+r.Forward)
		text := r.Client
		if r.Target != "" {
			text += " " + l.arrow() + " " + r.aim()
		}
		l.paragraph(b, "  ", 2, 4, text)
		l.paragraph(b, "  ", 2, 4, "for "+r.age()+", "+counted(r.In)+" in, "+counted(r.Out)+" out")
	}
}
