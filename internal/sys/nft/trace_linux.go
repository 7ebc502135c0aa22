package nft

import (
	"bytes"
	"context"
	"net"

	"golang.org/x/sys/unix"
)

// Attributes of linux/netfilter/nf_tables.h of Linux 6.16.
const (
	nftaTraceCtID        = 18
	nftaTraceCtDirection = 19
	nftaTraceCtStatus    = 20
	nftaTraceCtState     = 21
)

// mostHeader bounds what is kept of a header of a packet; the kernel sends less.
const mostHeader = 256

func trace(ctx context.Context, ready func(), told func(TraceEvent)) error {
	names := linkNames{}
	return listen(ctx, unix.NFNLGRP_NFTRACE, ready, func(r reply) {
		if r.kind == unix.NFT_MSG_TRACE {
			told(decodeTrace(r.family, r.attrs, names.of))
		}
	}, func() { told(TraceEvent{}) })
}

func decodeTrace(family Family, body []byte, name func(index uint32) string) TraceEvent {
	a := attributes(body)
	e := TraceEvent{
		ID:              a.u32(unix.NFTA_TRACE_ID),
		Family:          family,
		Table:           a.str(unix.NFTA_TRACE_TABLE),
		Chain:           a.str(unix.NFTA_TRACE_CHAIN),
		RuleHandle:      a.u64(unix.NFTA_TRACE_RULE_HANDLE),
		NFProto:         Family(a.u32(unix.NFTA_TRACE_NFPROTO)),
		IIF:             name(a.u32(unix.NFTA_TRACE_IIF)),
		OIF:             name(a.u32(unix.NFTA_TRACE_OIF)),
		Mark:            a.u32(unix.NFTA_TRACE_MARK),
		LinkHeader:      part(a[unix.NFTA_TRACE_LL_HEADER]),
		NetworkHeader:   part(a[unix.NFTA_TRACE_NETWORK_HEADER]),
		TransportHeader: part(a[unix.NFTA_TRACE_TRANSPORT_HEADER]),
	}
	switch a.u32(unix.NFTA_TRACE_TYPE) {
	case unix.NFT_TRACETYPE_POLICY:
		e.Kind = TracePolicy
	case unix.NFT_TRACETYPE_RETURN:
		e.Kind = TraceReturn
	case unix.NFT_TRACETYPE_RULE:
		e.Kind = TraceRule
		if !a.has(unix.NFTA_TRACE_RULE_HANDLE) { // so Linux says it of a chain's end
			e.Kind = TraceReturn
		}
	}
	if e.Kind == TracePolicy && a.has(unix.NFTA_TRACE_POLICY) {
		e.Verdict = verdictName(int32(a.u32(unix.NFTA_TRACE_POLICY)))
	} else if a.has(unix.NFTA_TRACE_VERDICT) {
		v := decodeVerdict(a[unix.NFTA_TRACE_VERDICT])
		e.Verdict, e.JumpTo = v.Do, v.Chain
	}
	if e.HasCt = a.has(nftaTraceCtState); e.HasCt {
		e.CtID = a.u32(nftaTraceCtID)
		e.CtReply = a.u8(nftaTraceCtDirection) == 1
		e.CtStatus = a.u32(nftaTraceCtStatus)
		e.CtState = a.u32(nftaTraceCtState)
	}
	return e
}

func part(b []byte) []byte { return bytes.Clone(b[:min(len(b), mostHeader)]) }

// linkNames are the names of interfaces by their index. An interface that is
// renamed while a packet is traced keeps its old one.
type linkNames map[uint32]string

// mostLinks bounds the names kept.
const mostLinks = 4096

func (l linkNames) of(index uint32) string {
	if index == 0 {
		return ""
	}
	name, ok := l[index]
	if !ok {
		if link, err := net.InterfaceByIndex(int(index)); err == nil {
			name = link.Name
		}
		if len(l) == mostLinks {
			clear(l)
		}
		l[index] = name
	}
	return name
}
