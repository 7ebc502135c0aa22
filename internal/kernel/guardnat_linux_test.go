package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"fairlead/internal/lab"
)

func TestWhatIsForwardedComesInThroughTheGuard(t *testing.T) {
	g := newTown(t)
	newDesk(t, g.Inside, ":8080")
	newDesk(t, g.Inside, ":80")
	newDesk(t, g.Gateway.Gateway, ":9090")
	g.carry("share lan to wan", "nat wan:80/tcp+udp to "+lab.Inside4+":8080", "nat wan:443/tcp+udp to ["+lab.Inside6+"]:8080",
		"nat wan:81/tcp+udp to self:9090")
	for _, network := range []string{"tcp", "udp"} {
		for _, at := range []string{lab.WAN4 + ":80", "[" + lab.WAN6 + "]:443", lab.WAN4 + ":81", "[" + lab.WAN6 + "]:81"} {
			if s := g.answers(g.Outside, network, at); !strings.Contains(s, lab.Outside4) && !strings.Contains(s, lab.Outside6) {
				t.Errorf("%s to %s: the target sees %s, not the client", network, at, s)
			}
		}
		// The target's own port is no way in.
		g.silent(g.Outside, network, lab.Inside4+":8080")
		g.silent(g.Outside, network, "["+lab.Inside6+"]:8080")
		g.silent(g.Outside, network, lab.WAN4+":9090")
		g.silent(g.Outside, network, lab.WAN4+":8080")
	}
	// The LAN reaches it by the shared address as well.
	g.answers(g.Beside, "tcp", lab.WAN4+":80")
}

// The port shadow, with a forward: the LAN's client asks a stranger first, from
// the forward's port, and the stranger's question to that port is the forward's.
func TestAForwardIsNotShadowedByALANClient(t *testing.T) {
	const port = 51820
	g := newTown(t)
	service, err := g.Beside.ListenPacket(t.Context(), "udp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	stranger := newDesk(t, g.Outside, ":40000")
	g.carry("share lan to wan", fmt.Sprintf("nat wan:%d/udp to %s", port, lab.Beside4))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := ask(ctx, g.Inside, "udp", netip.AddrPortFrom(netip.MustParseAddr(lab.Inside4), port), lab.Outside4+":40000")
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(s, fmt.Sprintf("%s:%d ", lab.WAN4, port)) {
		t.Errorf("outside sees %s: the forward's port", s)
	}
	if _, err := stranger.udp.WriteToUDPAddrPort([]byte("hello"), netip.MustParseAddrPort(fmt.Sprintf("%s:%d", lab.WAN4, port))); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	service.SetReadDeadline(time.Now().Add(patience))
	if n, from, err := service.ReadFromUDPAddrPort(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("the forward's target got %q from %v, %v; want the stranger's word", b[:n], from, err)
	}
}
