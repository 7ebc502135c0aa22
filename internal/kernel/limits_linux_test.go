package kernel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"fairlead/internal/lab"
	"fairlead/internal/sys/nft"
)

// hold connects and keeps the connection until the test is over, or until it is
// closed. refused tells that it was turned away.
func (g *town) hold(from *lab.Host, source, at string) (c net.Conn, refused bool) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	src := netip.Addr{}
	if source != "" {
		src = netip.MustParseAddr(source)
	}
	c, err := from.DialFrom(ctx, "tcp", src, at)
	if err != nil {
		if !errors.Is(err, syscall.ECONNREFUSED) {
			g.t.Errorf("from %s to %s: %v; a limit refuses", source, at, err)
		}
		return nil, true
	}
	g.t.Cleanup(func() { c.Close() })
	return c, false
}

func TestLimitsOnConnectionsRefuse(t *testing.T) {
	g := newTown(t,
		"nat wan:80 to 192.168.1.10 max-conns 3",
		"nat wan:81 to [2001:db8:2::10]:80 max-conns-per-source 2",
		"nat wan:82 to 192.168.1.10:80 max-conns-per-source 1",
		"nat wan:83 to self:8080 max-conns 1",
	)
	lab.Serve(t, lab.At{Host: g.Inside, Address: "192.168.1.10:80"}, lab.Echo)
	lab.Serve(t, lab.At{Host: g.Inside, Address: "[2001:db8:2::10]:80"}, lab.Echo)
	lab.Serve(t, lab.At{Host: g.Gateway.Gateway, Address: "203.0.113.1:8080"}, lab.Echo)

	var first net.Conn
	for n := range 5 {
		c, refused := g.hold(g.Outside, "", "203.0.113.1:80")
		if refused != (n >= 3) {
			t.Errorf("max-conns 3: connection %d: refused %t", n+1, refused)
		}
		if n == 0 {
			first = c
		}
	}
	first.Close()
	until(t, "a place that was given up is free again", func() bool {
		_, refused := g.hold(g.Outside, lab.Outside4Far, "203.0.113.1:80")
		return !refused
	})

	// One client in IPv6 is a whole /64.
	g.Outside.Addr("eth0", "2001:db8:9::3/128", "2001:db8:9:1::3/128")
	for n, source := range []string{lab.Outside6Far, "2001:db8:9::3", lab.Outside6Far} {
		if _, refused := g.hold(g.Outside, source, "[2001:db8:1::1]:81"); refused != (n >= 2) {
			t.Errorf("max-conns-per-source 2: connection %d, from %s: refused %t", n+1, source, refused)
		}
	}
	if _, refused := g.hold(g.Outside, "2001:db8:9:1::3", "[2001:db8:1::1]:81"); refused {
		t.Error("max-conns-per-source: a client of another network was refused")
	}
	for _, source := range []string{lab.Outside4, lab.Outside4Far} {
		for n := range 2 {
			if _, refused := g.hold(g.Outside, source, "203.0.113.1:82"); refused != (n == 1) {
				t.Errorf("max-conns-per-source 1: connection %d from %s: refused %t", n+1, source, refused)
			}
		}
	}
	for n := range 2 {
		if _, refused := g.hold(g.Outside, "", "203.0.113.1:83"); refused != (n == 1) {
			t.Errorf("max-conns 1 of self: connection %d: refused %t", n+1, refused)
		}
	}
}

// Whoever has had enough gets no more because another forward came or went, even
// one that needs chains at hooks of its own.
func TestLimitsLiveThroughAReload(t *testing.T) {
	limited := []string{"nat wan:80 to 192.168.1.10 max-conns 2", "nat wan:81 to 192.168.1.10:80 max-conns-per-source 1"}
	g := newTown(t, limited...)
	lab.Serve(t, lab.At{Host: g.Inside, Address: "192.168.1.10:80"}, lab.Echo)
	enough := func(after string) {
		t.Helper()
		for _, at := range []string{"203.0.113.1:80", "203.0.113.1:81"} {
			if c, refused := g.hold(g.Outside, "", at); !refused {
				c.Close()
				t.Errorf("after %s one more connection to %s was let in", after, at)
			}
		}
	}
	g.hold(g.Outside, "", "203.0.113.1:80")
	g.hold(g.Outside, "", "203.0.113.1:80")
	g.hold(g.Outside, "", "203.0.113.1:81")
	enough("the first ones")
	for _, more := range []string{"share lan to wan", "nat wan:2121 to 192.168.1.10:21 alg ftp", "nat wan:9000-9005/udp to self:9100-9105",
		"nat 192.168.1.3:80 to 192.168.1.10", "nat wan:82 to [2001:db8:2::10] max-conns 5"} {
		g.carry(append(limited[:2:2], more)...)
		enough(more)
		g.carry(limited...)
		enough(more + " was taken out")
	}
}

func TestLimitsOnRatesRefuse(t *testing.T) {
	g := newTown(t,
		"nat wan:80/tcp+udp to 192.168.1.10 rate 1/s",
		"nat wan:81/tcp+udp to 192.168.1.10:80 rate-per-source 1/s",
		"nat wan:82/tcp+udp to [2001:db8:2::10]:80 rate-per-source 1/s",
	)
	newDesk(t, g.Inside, "192.168.1.10:80")
	newDesk(t, g.Inside, "[2001:db8:2::10]:80")
	// Who asks many times in far less than a second is let in about once; who
	// waits is let in again.
	burst := func(network, source, at string) (let int) {
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			_, err := ask(ctx, g.Outside, network, netip.AddrPortFrom(netip.MustParseAddr(source), 0), at)
			cancel()
			switch {
			case err == nil:
				let++
			case !errors.Is(err, syscall.ECONNREFUSED):
				t.Errorf("%s from %s to %s: %v; a limit refuses", network, source, at, err)
			}
		}
		return let
	}
	for at, sources := range map[string][]string{
		"203.0.113.1:80":     {lab.Outside4},
		"203.0.113.1:81":     {lab.Outside4, lab.Outside4Far},
		"[2001:db8:1::1]:82": {lab.Outside6, lab.Outside6Far},
	} {
		for _, source := range sources {
			if let := burst("tcp", source, at); let == 0 || let > 10 {
				t.Errorf("tcp from %s to %s at 1/s: %d of 20 were let in", source, at, let)
			}
			until(t, "another connection is let in after a while", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				_, err := ask(ctx, g.Outside, "udp", netip.AddrPortFrom(netip.MustParseAddr(source), 0), at)
				return err == nil
			})
		}
	}
}

// Addresses whose connections have ended are forgotten: else the set that counts
// them would be full one day, and refuse everybody.
func TestSourcesAreForgotten(t *testing.T) {
	g := newTown(t, "nat wan:80 to 192.168.1.10 max-conns-per-source 2 rate-per-source 100/s")
	lab.Serve(t, lab.At{Host: g.Inside, Address: "192.168.1.10:80"}, lab.Echo)
	c, _ := g.hold(g.Outside, "", "203.0.113.1:80")
	sizes := func() (conns, rate int) {
		if err := g.Gateway.Gateway.Do(func() error {
			conn, err := nft.Open()
			if err != nil {
				return err
			}
			defer conn.Close()
			for set, n := range map[string]*int{"f_f0/conns4": &conns, "f_f0/rate4": &rate} {
				s, err := conn.ReadSet(nft.Inet, "fairlead", set)
				if err != nil {
					return err
				}
				*n = len(s.Elements)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return conns, rate
	}
	if conns, rate := sizes(); conns != 1 || rate != 1 {
		t.Errorf("with one client, the sets have %d and %d", conns, rate)
	}
	c.Close()
	until(t, "both sets are empty again", func() bool {
		conns, rate := sizes()
		return conns+rate == 0
	})
}

// New connections are told of in the kernel's log, where that may be read: the
// kernel logs from its first namespace alone, unless nf_log_all_netns is set.
func TestLogIsARuleOfItsOwn(t *testing.T) {
	g := newTown(t, "nat wan:80/tcp+udp to 192.168.1.10 log")
	newDesk(t, g.Inside, "192.168.1.10:80")
	g.said(g.Outside, "tcp", "203.0.113.1:80", lab.Outside4, "inside")
	var out []byte
	g.Gateway.Gateway.Do(func() error {
		out, _ = exec.Command("nft", "list", "chain", "inet", "fairlead", "f_f0/limits").Output()
		return nil
	})
	if !strings.Contains(string(out), `log prefix "fairlead f0: "`) {
		t.Errorf("the chain of the forward does not log:\n%s", out)
	}
}
