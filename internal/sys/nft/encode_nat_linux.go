package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

func (w *ruleWriter) immediate(reg int, v []byte) {
	w.do("immediate", func() {
		w.u32(unix.NFTA_IMMEDIATE_DREG, register(reg))
		w.data(unix.NFTA_IMMEDIATE_DATA, v)
	})
}

// nat rewrites: with addr to the address in the first register, with a port of
// 0 or more to the port in that register. fixed says that the port is a
// constant, which nft marks.
func (w *ruleWriter) nat(kind uint32, f Family, addr bool, port int, fixed bool) {
	w.do("nat", func() {
		w.u32(unix.NFTA_NAT_TYPE, kind)
		w.u32(unix.NFTA_NAT_FAMILY, uint32(f))
		if addr {
			w.u32(unix.NFTA_NAT_REG_ADDR_MIN, register(0))
		}
		if port >= 0 {
			w.u32(unix.NFTA_NAT_REG_PROTO_MIN, register(port))
			if fixed {
				w.u32(unix.NFTA_NAT_FLAGS, rangeProtoSpecified)
			}
		}
	})
}

// rangeProtoSpecified is NF_NAT_RANGE_PROTO_SPECIFIED of linux/netfilter/nf_nat.h.
const rangeProtoSpecified = 2

// fits refuses an address of another family.
func (w *ruleWriter) fits(f Family, a netip.Addr) error {
	if a = a.Unmap(); !a.IsValid() || a.Is4() != (f == IPv4) || a.Is6() != (f == IPv6) {
		return fmt.Errorf("%s is no address of %s", a, f)
	}
	return nil
}

// addrRegisters is how many registers an address takes.
func addrRegisters(f Family) int {
	if f == IPv6 {
		return 4
	}
	return 1
}

func (w *ruleWriter) dnat(e DNAT) error {
	switch {
	case e.Choose != nil:
		return w.choose(e.Family, e.Choose)
	case e.Map != "":
		sh, err := w.shape(e.Map)
		if err != nil {
			return err
		}
		if err := w.load(e.Keys, sh.interval); err != nil {
			return err
		}
		w.lookup(e.Map, 0, int64(register(0)), false)
		port := -1
		if sh.dataLen > 4*addrRegisters(e.Family) {
			port = addrRegisters(e.Family)
		}
		w.nat(unix.NFT_NAT_DNAT, e.Family, true, port, false)
	case !e.Addr.IsValid():
		w.immediate(0, binary.BigEndian.AppendUint16(nil, e.Port))
		w.nat(unix.NFT_NAT_DNAT, e.Family, false, 0, true)
	default:
		if err := w.fits(e.Family, e.Addr); err != nil {
			return err
		}
		w.immediate(0, e.Addr.Unmap().AsSlice())
		port := -1
		if e.Port != 0 {
			port = 4 // nft begins a register of sixteen bytes
			w.immediate(port, binary.BigEndian.AppendUint16(nil, e.Port))
		}
		w.nat(unix.NFT_NAT_DNAT, e.Family, true, port, true)
	}
	return nil
}

func (w *ruleWriter) choose(f Family, c *Choose) error {
	switch c.By {
	case ByKey:
		if err := w.load([]Key{c.Key}, c.ranges()); err != nil {
			return err
		}
	case ByTurn, ByChance:
		kind := uint32(unix.NFT_NG_INCREMENTAL)
		if c.By == ByChance {
			kind = unix.NFT_NG_RANDOM
		}
		w.do("numgen", func() {
			w.u32(unix.NFTA_NG_DREG, register(0))
			w.u32(unix.NFTA_NG_MODULUS, c.Mod)
			w.u32(unix.NFTA_NG_TYPE, kind)
			w.u32(unix.NFTA_NG_OFFSET, 0)
		})
	case BySource:
		if _, err := w.loadFrom(4, []Key{sourceOf(f)}, false); err != nil {
			return err
		}
		w.do("hash", func() {
			w.u32(unix.NFTA_HASH_SREG, register(4))
			w.u32(unix.NFTA_HASH_DREG, register(0))
			w.u32(unix.NFTA_HASH_LEN, uint32(sourceOf(f).kind().size()))
			w.u32(unix.NFTA_HASH_MODULUS, c.Mod)
			w.u32(unix.NFTA_HASH_SEED, chooseSeed)
			w.u32(unix.NFTA_HASH_OFFSET, 0)
			w.u32(unix.NFTA_HASH_TYPE, unix.NFT_HASH_JENKINS)
		})
	default:
		return fmt.Errorf("there is no way %d to choose", c.By)
	}
	if c.ranges() && c.By != ByKey {
		w.hostToNetwork(0)
	}
	w.lookup("__map%d", w.nextAnonymous(), int64(register(0)), false)
	port := -1
	if len(c.dataKinds(f)) > 1 {
		port = addrRegisters(f)
	}
	w.nat(unix.NFT_NAT_DNAT, f, true, port, false)
	return nil
}

func (w *ruleWriter) masquerade(e Masquerade) {
	first, last := 0, -1
	if e.First != 0 {
		w.immediate(first, binary.BigEndian.AppendUint16(nil, e.First))
		if e.Last != 0 && e.Last != e.First {
			last = 4
			w.immediate(last, binary.BigEndian.AppendUint16(nil, e.Last))
		}
	}
	w.do("masq", func() {
		if e.First == 0 {
			return
		}
		w.u32(unix.NFTA_MASQ_FLAGS, rangeProtoSpecified)
		w.u32(unix.NFTA_MASQ_REG_PROTO_MIN, register(first))
		if last >= 0 {
			w.u32(unix.NFTA_MASQ_REG_PROTO_MAX, register(last))
		}
	})
}

// ranges reports whether one of the keys is a range.
func (c *Choose) ranges() bool {
	return slices.ContainsFunc(c.Elements, func(e Element) bool { return !e.Key[0].one() })
}
