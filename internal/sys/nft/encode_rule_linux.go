package nft

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Verdicts, as in linux/netfilter.h and linux/netfilter/nf_tables.h.
const (
	verdictDrop   = 0
	verdictAccept = 1
)

var verdicts = map[string]int32{
	"drop": verdictDrop, "accept": verdictAccept,
	"jump": unix.NFT_JUMP, "goto": unix.NFT_GOTO, "return": unix.NFT_RETURN,
}

// A ruleWriter turns one rule into expressions on registers.
type ruleWriter struct {
	*batch
	anonymous []uint32 // the numbers of the sets without a name, in the order of their use

	// What earlier expressions have settled. A header is loaded only after the
	// packet is known to have it, as nft does.
	nfproto Family // 0: unknown
	l4proto int    // -1: unknown
}

// rules adds a chain's rules at its end.
func (b *batch) rules(c *Chain) error {
	for i := range c.Rules {
		if err := b.rule(c.Name, &c.Rules[i]); err != nil {
			return fmt.Errorf("chain %s, rule %d (%s): %w", c.Name, i+1, c.Rules[i].Text(), err)
		}
	}
	return nil
}

func (b *batch) rule(chain string, r *Rule) error {
	w := ruleWriter{batch: b, l4proto: -1}
	switch b.family {
	case IPv4, IPv6:
		w.nfproto = b.family
	}
	for _, e := range r.Exprs {
		w.anonymousSet(e)
	}
	b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, "")
	b.steps[len(b.steps)-1].doing = "add to chain " + chain + " the rule " + r.Text()
	b.text(unix.NFTA_RULE_TABLE, b.table)
	b.text(unix.NFTA_RULE_CHAIN, chain)
	at := b.open(unix.NFTA_RULE_EXPRESSIONS)
	for _, e := range r.Exprs {
		if err := w.write(e); err != nil {
			return err
		}
	}
	b.close(at)
	if r.Comment != "" {
		b.bytes(unix.NFTA_RULE_USERDATA, commentData(nil, r.Comment))
	}
	b.send()
	return nil
}

// anonymousSet makes the set that an expression needs.
func (w *ruleWriter) anonymousSet(e Expr) {
	switch e := e.(type) {
	case Is:
		if len(e.Values) == 1 {
			return
		}
		values := e.Values
		if anyRange(values) {
			values = mergedRanges(values)
		}
		elements := make([]Element, len(values))
		for i, r := range values {
			elements[i].Key = []Range{r}
		}
		w.makeAnonymous("__set%d", anyRange(e.Values), e.Key.kind(), nil, elements)
	case DNAT:
		if c := e.Choose; c != nil {
			w.makeAnonymous("__map%d", c.ranges(), c.kind(), c.dataKinds(e.Family), c.Elements)
		}
	}
}

func (w *ruleWriter) makeAnonymous(name string, interval bool, key kind, data []kind, elements []Element) {
	f := &setForm{name: name, flags: unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT, key: []kind{key}, data: data, size: len(elements)}
	if len(data) > 0 {
		f.flags |= unix.NFT_SET_MAP
	}
	if interval {
		f.flags |= unix.NFT_SET_INTERVAL
		f.size = 2*len(elements) + 1
	}
	id := w.addSet(f)
	w.batch.elements(nil, f, id, elements, false, true)
	w.anonymous = append(w.anonymous, id)
}

// nextAnonymous is the number of the next of them that an expression uses.
func (w *ruleWriter) nextAnonymous() uint32 {
	id := w.anonymous[0]
	w.anonymous = w.anonymous[1:]
	return id
}

// expr adds an expression, in a list or as an attribute.
func (b *batch) expr(kind uint16, name string, data func()) {
	at := b.open(kind)
	b.text(unix.NFTA_EXPR_NAME, name)
	inner := b.open(unix.NFTA_EXPR_DATA)
	data()
	b.close(inner)
	b.close(at)
}

func (w *ruleWriter) do(name string, data func()) { w.expr(unix.NFTA_LIST_ELEM, name, data) }

func (w *ruleWriter) write(e Expr) error {
	switch e := e.(type) {
	case Is:
		return w.is(e)
	case Has:
		return w.has(e)
	case In:
		return w.in(e)
	case Verdict:
		if _, ok := verdicts[e.Do]; !ok {
			return fmt.Errorf("there is no verdict %q", e.Do)
		}
		w.do("immediate", func() {
			w.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
			at := w.open(unix.NFTA_IMMEDIATE_DATA)
			w.verdict(e)
			w.close(at)
		})
	case VMap:
		sh, err := w.shape(e.Map)
		if err != nil {
			return err
		}
		if err := w.load(e.Keys, sh.interval); err != nil {
			return err
		}
		w.lookup(e.Map, 0, unix.NFT_REG_VERDICT, false)
	case DNAT:
		return w.dnat(e)
	case SNAT:
		if err := w.fits(e.Family, e.Addr); err != nil {
			return err
		}
		w.immediate(0, e.Addr.Unmap().AsSlice())
		w.nat(unix.NFT_NAT_SNAT, e.Family, true, -1, false)
	case Masquerade:
		w.masquerade(e)
	case Reject:
		return w.reject(e)
	case Limit, ConnCount, Counter:
		return w.stateful(unix.NFTA_LIST_ELEM, e)
	case Update:
		return w.update(e)
	case Log:
		w.do("log", func() {
			if e.Prefix != "" {
				w.text(unix.NFTA_LOG_PREFIX, fitQuotes(e.Prefix))
			}
			if e.Group >= 0 {
				w.u16(unix.NFTA_LOG_GROUP, uint16(e.Group))
			}
		})
	case SetKey:
		return w.setKey(e)
	case UseHelper:
		w.do("objref", func() {
			w.u32(unix.NFTA_OBJREF_IMM_TYPE, nftObjectCtHelper)
			w.bytes(unix.NFTA_OBJREF_IMM_NAME, []byte(e.Name))
		})
	case Notrack:
		w.do("notrack", func() {})
	default:
		return fmt.Errorf("%T cannot be loaded", e)
	}
	return nil
}

func (b *batch) verdict(v Verdict) {
	at := b.open(unix.NFTA_DATA_VERDICT)
	b.u32(unix.NFTA_VERDICT_CODE, uint32(verdicts[v.Do]))
	if v.Chain != "" {
		b.text(unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	b.close(at)
}

// shape is what is known of a named set.
func (w *ruleWriter) shape(set string) (shape, error) {
	sh, ok := w.shapes[set]
	if !ok {
		return shape{}, fmt.Errorf("there is no set %s", set)
	}
	return sh, nil
}

// rejects are the codes of an ICMP error for both families, NFT_REJECT_ICMPX_*.
var rejects = map[string]uint8{"no-route": 0, "port-unreachable": 1, "host-unreachable": 2, "admin-prohibited": 3}

func (w *ruleWriter) reject(e Reject) error {
	kind, code := uint32(unix.NFT_REJECT_TCP_RST), uint8(0)
	if e.With == rejectReset {
		if err := w.needL4(unix.IPPROTO_TCP); err != nil {
			return err
		}
	} else {
		var ok bool
		kind = unix.NFT_REJECT_ICMPX_UNREACH
		if code, ok = rejects[e.With]; !ok {
			return fmt.Errorf("there is no reject with %q", e.With)
		}
	}
	w.do("reject", func() {
		w.u32(unix.NFTA_REJECT_TYPE, kind)
		w.u8(unix.NFTA_REJECT_ICMP_CODE, code)
	})
	return nil
}

// stateful adds an expression that remembers something.
func (w *ruleWriter) stateful(kind uint16, e Expr) error {
	switch e := e.(type) {
	case Limit:
		unit := uint64(e.Per / time.Second)
		if e.Per%time.Second != 0 || unit == 0 || e.Rate == 0 {
			return fmt.Errorf("no limit is %d in %s", e.Rate, e.Per)
		}
		burst, over := e.Burst, uint32(0)
		if burst == 0 {
			burst = defaultBurst
		}
		if e.Over {
			over = unix.NFT_LIMIT_F_INV
		}
		w.expr(kind, "limit", func() {
			w.u64(unix.NFTA_LIMIT_RATE, e.Rate)
			w.u64(unix.NFTA_LIMIT_UNIT, unit)
			w.u32(unix.NFTA_LIMIT_BURST, burst)
			w.u32(unix.NFTA_LIMIT_TYPE, unix.NFT_LIMIT_PKTS)
			w.u32(unix.NFTA_LIMIT_FLAGS, over)
		})
	case ConnCount:
		over := uint32(0)
		if e.Over {
			over = 1 // NFT_CONNLIMIT_F_INV
		}
		w.expr(kind, "connlimit", func() {
			w.u32(nftaConnlimitCount, e.N)
			w.u32(nftaConnlimitFlags, over)
		})
	case Counter:
		w.expr(kind, "counter", func() { w.count(e.Count) })
	default:
		return fmt.Errorf("an element cannot hold %s", exprText(e))
	}
	return nil
}

func (b *batch) count(c Count) {
	if c == (Count{}) {
		return
	}
	b.u64(unix.NFTA_COUNTER_BYTES, c.Bytes)
	b.u64(unix.NFTA_COUNTER_PACKETS, c.Packets)
}

var updates = map[string]uint32{"add": unix.NFT_DYNSET_OP_ADD, "update": unix.NFT_DYNSET_OP_UPDATE, "delete": 2}

func (w *ruleWriter) update(e Update) error {
	op, ok := updates[e.Op]
	if !ok {
		return fmt.Errorf("elements cannot be made to %q", e.Op)
	}
	keys := slices.Concat(e.Keys, e.DataKeys)
	for _, k := range keys {
		if err := w.need(k); err != nil {
			return err
		}
	}
	next, err := w.loadFrom(0, e.Keys, false)
	if err != nil {
		return err
	}
	data := (next + 3) &^ 3
	if _, err := w.loadFrom(data, e.DataKeys, false); err != nil {
		return err
	}
	var failed error
	w.do("dynset", func() {
		w.u32(unix.NFTA_DYNSET_SREG_KEY, register(0))
		if len(e.DataKeys) > 0 {
			w.u32(unix.NFTA_DYNSET_SREG_DATA, register(data))
		}
		w.u32(unix.NFTA_DYNSET_OP, op)
		if e.Timeout > 0 {
			w.u64(unix.NFTA_DYNSET_TIMEOUT, wholeMilliseconds(e.Timeout))
		}
		w.text(unix.NFTA_DYNSET_SET_NAME, e.Set)
		switch len(e.With) {
		case 0:
		case 1:
			failed = w.stateful(unix.NFTA_DYNSET_EXPR, e.With[0])
		default:
			at := w.open(nftaDynsetExpressions)
			for _, with := range e.With {
				if err := w.stateful(unix.NFTA_LIST_ELEM, with); err != nil {
					failed = err
				}
			}
			w.close(at)
		}
	})
	return failed
}

func (w *ruleWriter) setKey(e SetKey) error {
	var key uint32
	v := binary.NativeEndian.AppendUint32(nil, e.Value)
	switch e.Key {
	case Mark:
		key = unix.NFT_META_MARK
	case NFTrace:
		key = unix.NFT_META_NFTRACE
		v = []byte{byte(e.Value)}
	default:
		return fmt.Errorf("%s cannot be set", strings.TrimSpace(e.Key.info().text))
	}
	w.immediate(0, v)
	w.do("meta", func() {
		w.u32(unix.NFTA_META_KEY, key)
		w.u32(unix.NFTA_META_SREG, register(0))
	})
	return nil
}
