package kernel

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"fairlead/internal/sys/nft"
)

// Bounds of a walk. The kernel itself allows chains to call each other 16
// deep; a rule set in which a packet meets more rules than mostSteps is not
// judged.
const (
	mostSteps = 200_000
	mostDeep  = 16
)

// ask follows p. Every chain that drops p for certain is named, not only the
// first: all of them stand in the way.
func (f *others) ask(p imagined) verdict {
	var v verdict
	w := &walk{others: f, packet: p, steps: mostSteps}
	w.begin()
	for _, b := range f.bases(p.hook, p.v6) {
		o := w.base(b)
		switch {
		case o.drop == nil:
			continue
		case o.accept:
			o.drop.sure = false
			if v.fate == passes {
				v.fate = perhaps
			}
		default:
			o.drop.sure = true
			v.fate = drops
		}
		v.culprits = append(v.culprits, *o.drop)
	}
	// The sure ones first: they are what has to be mended.
	slices.SortStableFunc(v.culprits, func(a, b culprit) int {
		switch {
		case a.sure == b.sure:
			return 0
		case a.sure:
			return -1
		}
		return 1
	})
	return v
}

// A walk takes one packet through chains.
type walk struct {
	*others
	packet imagined
	steps  int

	mark, ctmark bits
	forked       bool   // it has come to a rule that may or may not end the way
	regs         bits   // sixteen of four bytes
	reason       string // what was not known when the packet last came to a fork
	lack         string // the same of the rule that it is at
}

// An ending is how a packet may leave a chain: several are possible where
// something is not known.
type ending struct {
	accept  bool
	through bool     // at its end, or by return
	drop    *culprit // who drops, nil if nobody may
}

func (w *walk) begin() {
	w.mark, w.ctmark = native32(0), native32(0)
	if w.others.marks {
		w.mark = unsure(4)
	}
	if w.others.ctmark {
		w.ctmark = unsure(4)
	}
}

// base takes the packet through a base chain and its policy.
func (w *walk) base(b base) ending {
	e := w.chain(b, b.chain, 0)
	if e.through && b.chain.Hook.Drop {
		if e.drop == nil {
			e.drop = w.blame(b, b.chain.Name, 0)
		}
	} else if e.through {
		e.accept = true
	}
	return e
}

func (w *walk) blame(b base, chain string, rule uint64) *culprit {
	by := b.table.program(b.chain.Hook.Hook)
	return &culprit{family: b.table.Family, table: b.table.Name, owned: b.table.Owned, base: b.chain.Name, chain: chain, rule: rule, why: w.reason, by: by, xt: b.table.iptables()}
}

// chain takes the packet through the rules of a chain.
func (w *walk) chain(b base, c *nft.Chain, deep int) ending {
	if c == nil || deep > mostDeep {
		w.reason = "chains that call each other too deep"
		return ending{accept: true, through: true, drop: w.blame(b, b.chain.Name, 0)}
	}
	var e ending
	for i := range c.Rules {
		r := &c.Rules[i]
		if w.steps--; w.steps < 0 {
			w.reason = "more rules than can be followed"
			return ending{accept: true, drop: w.blame(b, c.Name, r.Handle)}
		}
		next := false // whether the packet may come to the rule behind
		verdicts, surely := w.rule(b.table, c, r)
		for _, v := range verdicts {
			o := w.obey(b, c, r, v, deep)
			e.accept = e.accept || o.accept
			if o.drop != nil {
				e.drop = o.drop
			}
			if v.Do == "return" || v.Do == "goto" {
				e.through = e.through || o.through
			} else {
				next = next || o.through
			}
		}
		if surely && !next {
			return e
		}
	}
	e.through = true
	return e
}

// obey does a verdict. through means that the packet goes on: behind the rule,
// or for return and goto behind the caller's.
func (w *walk) obey(b base, c *nft.Chain, r *nft.Rule, v nft.Verdict, deep int) ending {
	switch v.Do {
	case "accept":
		return ending{accept: true}
	case "drop":
		return ending{drop: w.blame(b, c.Name, r.Handle)}
	case "jump", "goto":
		return w.chain(b, b.table.chains[v.Chain], deep+1)
	case "queue":
		w.reason = "a process that rule " + ruleName(c, r) + " asks"
		return ending{accept: true, drop: w.blame(b, c.Name, r.Handle)}
	}
	return ending{through: true}
}

func ruleName(c *nft.Chain, r *nft.Rule) string {
	return fmt.Sprintf("%d of chain %s", r.Handle, c.Name)
}

// rule says what verdicts a rule may have for the packet; surely, that it has
// one of them.
func (w *walk) rule(t *otherTable, c *nft.Chain, r *nft.Rule) (verdicts []nft.Verdict, surely bool) {
	w.regs, w.lack = unsure(64), ""
	match := yes
	defer func() {
		if match == unknown && len(verdicts) > 0 || len(verdicts) > 1 {
			w.forked = true
			w.reason = "rule " + ruleName(c, r)
			if w.lack != "" {
				w.reason += ": " + w.lack
			}
		}
	}()
	for _, e := range r.Raw {
		m := yes
		switch e := e.(type) {
		case nft.RawVerdict:
			if e.Do == "" || e.Do == "continue" {
				continue
			}
			return []nft.Verdict{e.Verdict}, match == yes
		case nft.RawReject:
			return []nft.Verdict{nft.Drop}, match == yes
		case nft.RawQueue:
			return []nft.Verdict{{Do: "queue"}}, match == yes
		case nft.RawNAT, nft.RawMasquerade, nft.RawRedirect:
			return []nft.Verdict{nft.Accept}, match == yes
		case nft.RawLookup:
			if e.VMap {
				hits, found := w.vmap(t, e)
				match = match.and(found)
				return hits, match == yes
			}
			m = w.lookup(t, e)
		case nft.RawXT:
			if e.Match {
				m = w.xtMatch(e)
				break
			}
			v, ends := w.xtTarget(e, match)
			if ends {
				return v, match == yes && v != nil
			}
		default:
			m = w.expr(e, match)
		}
		if match = match.and(m); match == no {
			return nil, false
		}
	}
	return nil, false
}

func (w *walk) get(r nft.Reg, n int) bits {
	return w.regs.slice(int(r)*4, n)
}

// put writes a value, filled up to whole registers with zeros as the kernel
// does.
func (w *walk) put(r nft.Reg, b bits) {
	at := int(r) * 4
	for i := range (len(b.value) + 3) &^ 3 {
		if at+i >= len(w.regs.value) {
			return
		}
		if i < len(b.value) {
			w.regs.value[at+i], w.regs.known[at+i] = b.value[i], b.known[i]
		} else {
			w.regs.value[at+i], w.regs.known[at+i] = 0, 0xff
		}
	}
}

// vmap are the verdicts that a map may have for the packet.
func (w *walk) vmap(t *otherTable, e nft.RawLookup) ([]nft.Verdict, maybe) {
	set := t.sets[e.Set]
	if set == nil || set.Partial {
		w.lack = "a map with more elements than were read"
		return []nft.Verdict{nft.Accept, nft.Drop}, unknown
	}
	found, hits := find(set, w.get(e.Reg, 64))
	var verdicts []nft.Verdict
	for _, h := range hits {
		verdicts = append(verdicts, h.Verdict)
	}
	return verdicts, found
}

func (w *walk) lookup(t *otherTable, e nft.RawLookup) maybe {
	set := t.sets[e.Set]
	if set == nil || set.Partial {
		w.lack = "a set with more elements than were read"
		return unknown
	}
	found, hits := find(set, w.get(e.Reg, 64))
	if e.Map {
		switch {
		case found == yes && len(hits) == 1:
			var data bits
			for i, v := range hits[0].Data {
				b := sure([]byte(v))
				if i < len(set.Data) && set.Data[i] == nft.MarkType && len(v) == 4 {
					b = native32(binary.BigEndian.Uint32([]byte(v)))
				}
				for len(data.value)%4 != 0 {
					data = data.with(sure([]byte{0}))
				}
				data = data.with(b)
			}
			w.put(e.Dst, data)
		case found != no:
			w.put(e.Dst, unsure(64-int(e.Dst)*4))
		}
	}
	if e.Not {
		return found.not()
	}
	return found
}

// expr runs an expression that reads, compares or writes. match is whether the
// packet has come so far.
func (w *walk) expr(e nft.RawExpr, match maybe) maybe {
	switch e := e.(type) {
	case nft.RawMeta:
		b, m := w.meta(e.Key)
		w.put(e.Reg, b)
		return m
	case nft.RawPayload:
		b, m := w.payload(e)
		w.put(e.Reg, b)
		return m
	case nft.RawExthdr:
		if e.Op == unix.NFT_EXTHDR_OP_IPV6 {
			if e.Present {
				w.put(e.Reg, sure([]byte{0}))
				return yes
			}
			return no
		}
		w.put(e.Reg, unsure(max(e.Len, 1)))
		if e.Present {
			return yes
		}
		return unknown
	case nft.RawCt:
		b, m := w.ct(e)
		w.put(e.Reg, b)
		return m
	case nft.RawFib:
		w.put(e.Reg, w.fib(e))
		return yes
	case nft.RawImmediate:
		w.put(e.Reg, sure(e.Data))
		return yes
	case nft.RawBitwise:
		w.put(e.Dst, w.bitwise(e))
		return yes
	case nft.RawByteorder:
		w.put(e.Dst, w.byteorder(e))
		return yes
	case nft.RawCmp:
		return compare(w.get(e.Reg, len(e.Data)), e.Op, e.Data)
	case nft.RawRange:
		m := w.get(e.Reg, len(e.From)).within(e.From, e.To)
		if e.Not {
			return m.not()
		}
		return m
	case nft.RawRt:
		w.put(e.Reg, unsure(16))
		return yes
	case nft.RawSocket:
		w.put(e.Reg, unsure(8))
		return unknown
	case nft.RawHash:
		w.put(e.Dst, unsure(4))
		return yes
	case nft.RawNumgen:
		w.put(e.Dst, unsure(4))
		return yes
	case nft.RawMetaSet:
		if e.Key == unix.NFT_META_MARK {
			w.mark = w.written(w.mark, w.get(e.Reg, 4), match)
		}
		return yes
	case nft.RawCtSet:
		if e.Key == unix.NFT_CT_MARK {
			w.ctmark = w.written(w.ctmark, w.get(e.Reg, 4), match)
		}
		return yes
	case nft.RawDynset:
		m := yes
		for _, x := range e.Exprs {
			m = m.and(w.expr(x, match))
		}
		if e.Update.Op == "delete" {
			return unknown
		}
		if e.Not {
			return m.not()
		}
		return m
	case nft.RawLimit:
		// A single packet is within any rate.
		return of(!e.Over)
	case nft.RawConnCount:
		return of(!e.Over)
	case nft.RawQuota:
		return of(e.Over == (e.Used >= e.Bytes))
	case nft.RawObject:
		if e.Type == unix.NFT_OBJECT_QUOTA || e.Type == unix.NFT_OBJECT_LIMIT || e.Type == unix.NFT_OBJECT_CONNLIMIT || e.Type == unix.NFT_OBJECT_SYNPROXY {
			w.lack = "a quota or limit that several rules share"
			return unknown
		}
		return yes
	case nft.RawCounter, nft.RawLog, nft.RawNotrack, nft.RawPayloadSet:
		return yes
	case nft.RawOther:
		w.lack = "an expression " + e.Name
		return unknown
	}
	w.lack = fmt.Sprintf("an expression %T", e)
	return unknown
}

// written is a value after a write that happened, or may have: behind a fork
// nobody knows whether the packet came here.
func (w *walk) written(old, new bits, match maybe) bits {
	if match == yes && !w.forked {
		return new
	}
	out := unsure(len(old.value))
	for i := range out.value {
		same := old.known[i] & new.known[i] &^ (old.value[i] ^ new.value[i])
		out.value[i], out.known[i] = old.value[i]&same, same
	}
	return out
}

func compare(b bits, op nft.CmpOp, d []byte) maybe {
	switch op {
	case nft.Equal:
		return b.equal(d)
	case nft.NotEqual:
		return b.equal(d).not()
	case nft.Less:
		return b.less(d, false)
	case nft.LessEqual:
		return b.less(d, true)
	case nft.Greater:
		return b.less(d, true).not()
	case nft.GreaterEqual:
		return b.less(d, false).not()
	}
	return unknown
}
