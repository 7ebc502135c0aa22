package nft

// A RawExpr is one expression of a rule as the kernel runs it: on registers.
// Every rule that was read has them, whatever program wrote it, so that a
// packet can be followed through it. The types of this file are all there are;
// what is none of them is a RawOther.
type RawExpr interface{ raw() }

// A Reg is one of the sixteen registers of four bytes. A longer value goes on
// in the ones after it, each component of a concatenation in registers of its
// own. (The older registers 1 to 4, of sixteen bytes each, begin at 0, 4, 8
// and 12.) Numbers that are the kernel's own, such as a mark, an interface's
// index or the state of a connection, are in the byte order of this machine;
// what comes from the packet is in network order.
type Reg uint8

// RawMeta loads something that the kernel knows of the packet.
type RawMeta struct {
	Key uint32 // unix.NFT_META_*
	Reg Reg
}

// RawMetaSet writes the mark, nftrace and the like.
type RawMetaSet struct {
	Key uint32 // unix.NFT_META_*
	Reg Reg
}

// RawPayload loads Len bytes of the packet. It does not match when the packet
// has no such header or is too short.
type RawPayload struct {
	Base uint32 // unix.NFT_PAYLOAD_*
	Off  int    // from the header's begin
	Len  int
	Reg  Reg
}

// RawPayloadSet writes into the packet.
type RawPayloadSet struct {
	Base uint32
	Off  int
	Len  int
	Reg  Reg
}

// RawExthdr loads of an IPv6 extension header or an option of TCP; with
// Present, whether there is one (one byte, 0 or 1).
type RawExthdr struct {
	Op      uint32 // unix.NFT_EXTHDR_OP_*
	Type    uint8  // the header's number, or the option's
	Off     int
	Len     int
	Present bool
	Reg     Reg
}

// RawCt loads something of the packet's connection.
type RawCt struct {
	Key uint32 // unix.NFT_CT_*
	Dir int    // 0 original, 1 reply, -1: the key needs none
	Reg Reg
}

// RawCtSet writes something of the connection.
type RawCtSet struct {
	Key uint32
	Dir int
	Reg Reg
}

// RawFib loads what the routing table says of the packet.
type RawFib struct {
	Flags  uint32 // unix.NFTA_FIB_F_*
	Result uint32 // unix.NFT_FIB_RESULT_*
	Reg    Reg
}

// RawRt loads something of the packet's route.
type RawRt struct {
	Key uint32 // unix.NFT_RT_*, and 4: IPsec
	Reg Reg
}

// RawSocket loads something of the socket on this host the packet is for.
type RawSocket struct {
	Key uint32 // linux/netfilter/nf_tables.h, enum nft_socket_keys
	Reg Reg
}

// RawHash loads the hash of Len bytes from Src (with Sym of the packet's
// addresses and ports), modulo Mod, plus Offset.
type RawHash struct {
	Src, Dst          Reg
	Len               int
	Mod, Seed, Offset uint32
	Sym               bool
}

// RawNumgen loads a number: the next, or with Random any, modulo Mod, plus
// Offset.
type RawNumgen struct {
	Dst         Reg
	Mod, Offset uint32
	Random      bool
}

// RawImmediate loads a constant.
type RawImmediate struct {
	Reg  Reg
	Data []byte
}

// RawVerdict ends the rule.
type RawVerdict struct{ Verdict }

// RawBitwise computes of Len bytes from Src what it leaves from Dst. Each byte is
// masked, then its Xor is applied; or, with a Shift, the registers are one number,
// the highest four bytes first, each four in this machine's order.
type RawBitwise struct {
	Src, Dst  Reg
	Len       int
	Mask, Xor []byte
	Shift     int // to the left; negative: to the right
}

// RawByteorder turns each Size bytes of Len between network order and this
// machine's.
type RawByteorder struct {
	Src, Dst  Reg
	Len, Size int
	ToHost    bool
}

// A CmpOp says how RawCmp compares.
type CmpOp uint8

// The comparisons, as in linux/netfilter/nf_tables.h.
const (
	Equal CmpOp = iota
	NotEqual
	Less
	LessEqual
	Greater
	GreaterEqual
)

// RawCmp matches when the bytes from Reg compare so with Data, as memcmp does:
// for numbers in network order.
type RawCmp struct {
	Reg  Reg
	Op   CmpOp
	Data []byte
}

// RawRange matches when the bytes from Reg are between From and To inclusive;
// with Not, when they are not.
type RawRange struct {
	Reg      Reg
	Not      bool
	From, To []byte
}

// RawLookup looks in a set for the key from Reg, and matches when it is there
// (with Not, when it is not). With Map it leaves the element's data from Dst,
// with VMap it does the element's verdict. The set is one of the table's Sets or of
// its Anonymous; [Set.Lookup] finds in it.
type RawLookup struct {
	Set  string
	Reg  Reg
	Not  bool
	Map  bool
	Dst  Reg
	VMap bool
}

// RawDynset adds to a set, or deletes from it.
type RawDynset struct {
	Update
	Key, DataReg Reg
	HasData      bool
	Not          bool
	Exprs        []RawExpr // for the element: counters and limits, which decide whether it matches
}

// RawCounter counts.
type RawCounter struct{ Count }

// RawLimit matches within a rate, with Bytes of bytes.
type RawLimit struct {
	Limit
	Bytes bool
}

// RawQuota matches until so many bytes passed; with Over, after them.
type RawQuota struct {
	Bytes, Used uint64
	Over        bool
}

// RawConnCount is ConnCount.
type RawConnCount struct{ ConnCount }

// RawLog logs.
type RawLog struct{ Log }

// RawReject is a drop with an answer.
type RawReject struct {
	Type uint32 // unix.NFT_REJECT_*
	Code uint8  // of ICMP, or of NFT_REJECT_ICMPX_UNREACH
}

// RawNAT rewrites the source or the destination. A register that is not used is
// NoReg. It ends the evaluation of the chain.
type RawNAT struct {
	Source             bool
	Family             Family
	AddrMin, AddrMax   Reg
	ProtoMin, ProtoMax Reg
	Flags              uint32 // linux/netfilter/nf_nat.h, NF_NAT_RANGE_*
}

// NoReg is no register.
const NoReg Reg = 0xff

// RawMasquerade rewrites the source to an address of the interface.
type RawMasquerade struct {
	ProtoMin, ProtoMax Reg
	Flags              uint32
}

// RawRedirect rewrites the destination to this host.
type RawRedirect struct {
	ProtoMin, ProtoMax Reg
	Flags              uint32
}

// RawObject uses an object of the table: a counter, a quota, a helper. Either it
// is named or it is what Map leads to for the key from Reg.
type RawObject struct {
	Type uint32 // linux/netfilter/nf_tables.h, NFT_OBJECT_*
	Name string
	Map  string
	Reg  Reg
}

// RawNotrack is Notrack.
type RawNotrack struct{}

// RawQueue hands the packet to a process, which decides.
type RawQueue struct{ Bypass bool } // accepted while there is none

// RawXT is a match or a target of iptables. Info is its own struct, of
// linux/netfilter/xt_*.h, in this machine's byte order unless said there.
type RawXT struct {
	Match bool // else a target
	Name  string
	Rev   uint32
	Info  []byte
}

// RawOther is an expression that is none of these, or could not be read.
type RawOther struct{ Name string }

func (RawMeta) raw()       {}
func (RawMetaSet) raw()    {}
func (RawPayload) raw()    {}
func (RawPayloadSet) raw() {}
func (RawExthdr) raw()     {}
func (RawCt) raw()         {}
func (RawCtSet) raw()      {}
func (RawFib) raw()        {}
func (RawRt) raw()         {}
func (RawSocket) raw()     {}
func (RawHash) raw()       {}
func (RawNumgen) raw()     {}
func (RawImmediate) raw()  {}
func (RawVerdict) raw()    {}
func (RawBitwise) raw()    {}
func (RawByteorder) raw()  {}
func (RawCmp) raw()        {}
func (RawRange) raw()      {}
func (RawLookup) raw()     {}
func (RawDynset) raw()     {}
func (RawCounter) raw()    {}
func (RawLimit) raw()      {}
func (RawQuota) raw()      {}
func (RawConnCount) raw()  {}
func (RawLog) raw()        {}
func (RawReject) raw()     {}
func (RawNAT) raw()        {}
func (RawMasquerade) raw() {}
func (RawRedirect) raw()   {}
func (RawObject) raw()     {}
func (RawNotrack) raw()    {}
func (RawQueue) raw()      {}
func (RawXT) raw()         {}
func (RawOther) raw()      {}
