package lab

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
)

// A UDPPeer answers datagrams until it is stopped or its test ends.
type UDPPeer struct {
	Address string
	Port    netip.AddrPort
	Count   atomic.Int64 // datagrams received

	stop func()
}

// An Answer is what a UDP peer sends back for one datagram. It may keep
// neither the datagram nor, between calls, assume a sender.
type Answer func(datagram []byte, from netip.AddrPort) [][]byte

// ServeUDP starts a UDP peer.
func ServeUDP(t testing.TB, at At, answer Answer) *UDPPeer {
	t.Helper()
	if at.Address == "" {
		at.Address = "127.0.0.1:0"
	}
	pc, err := at.Host.ListenPacket(t.Context(), "udp", at.Address)
	if err != nil {
		t.Fatalf("lab: udp peer: %v", err)
	}
	pc.SetReadBuffer(4 << 20)
	p := &UDPPeer{Address: pc.LocalAddr().String()}
	p.Port = netip.MustParseAddrPort(p.Address)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.serve(pc, answer)
	}()
	p.stop = sync.OnceFunc(func() {
		pc.Close()
		<-done
	})
	t.Cleanup(p.stop)
	return p
}

// Stop ends the peer and waits for it.
func (p *UDPPeer) Stop() { p.stop() }

func (p *UDPPeer) serve(pc *net.UDPConn, answer Answer) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFromUDPAddrPort(buf)
		if err != nil {
			return // only when it was closed: the socket is not connected
		}
		p.Count.Add(1)
		for _, reply := range answer(buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())) {
			pc.WriteToUDPAddrPort(reply, from)
		}
	}
}

// UDPEcho answers each datagram with itself.
func UDPEcho(datagram []byte, _ netip.AddrPort) [][]byte { return [][]byte{datagram} }

// UDPSilent answers nothing; Count tells what arrived.
func UDPSilent([]byte, netip.AddrPort) [][]byte { return nil }

// UDPEmpty answers each datagram with one of length zero.
func UDPEmpty([]byte, netip.AddrPort) [][]byte { return [][]byte{{}} }

// UDPWhoAmI answers with the address and port that the datagram came from, so
// that a client sees whether it still has the session it had.
func UDPWhoAmI(_ []byte, from netip.AddrPort) [][]byte { return [][]byte{[]byte(from.String())} }

// UDPName answers with a text that tells targets apart.
func UDPName(text string) Answer {
	return func([]byte, netip.AddrPort) [][]byte { return [][]byte{[]byte(text)} }
}

// UDPRepeat answers each datagram n times; to the end of each answer a byte is
// added that counts from 0.
func UDPRepeat(n int) Answer {
	return func(datagram []byte, _ netip.AddrPort) [][]byte {
		replies := make([][]byte, n)
		for i := range replies {
			replies[i] = append(datagram[:len(datagram):len(datagram)], byte(i))
		}
		return replies
	}
}
