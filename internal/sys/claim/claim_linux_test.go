package claim

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fairlead/internal/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// street is two neighbours.
func street(t *testing.T) (here, there *lab.Host) {
	n := lab.NewNet(t)
	here, there = n.Host("here"), n.Host("there")
	n.Wire(here, "eth0", there, "eth0")
	here.Sysctl("net.ipv6.conf.eth0.accept_dad", "1") // hosts of the lab do not wait for it
	here.Addr("eth0", "10.0.0.2/24", "2001:db8::2/64")
	there.Addr("eth0", "10.0.0.1/24", "2001:db8::1/64")
	return here, there
}

func TestAnAddressThatNobodyHasIsTakenAndTold(t *testing.T) {
	t.Parallel()
	for _, a := range []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("2001:db8::3")} {
		t.Run(a.String(), func(t *testing.T) {
			t.Parallel()
			here, there := street(t)
			do(t, here, func() error { return Take(t.Context(), "eth0", a) })
			ln, err := here.Listen(t.Context(), "tcp", netip.AddrPortFrom(a, 80).String())
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			c, err := there.DialContext(t.Context(), "tcp", netip.AddrPortFrom(a, 80).String())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			out := addresses(t, here)
			if !regexp.MustCompile(regexp.QuoteMeta(a.String()) + `/.*dynamic`).MatchString(out) {
				t.Errorf("the kernel does not end it by itself:\n%s", out)
			}
			do(t, here, func() error { return Renew("eth0", a) })
			do(t, here, func() error { return Release("eth0", a) })
			do(t, here, func() error { return Release("eth0", a) })
			if out := addresses(t, here); strings.Contains(out, a.String()+"/") {
				t.Errorf("it was not given back:\n%s", out)
			}
		})
	}
}

func TestAnAddressThatSomebodyHasIsLeftToHim(t *testing.T) {
	t.Parallel()
	for _, a := range []string{"10.0.0.1", "2001:db8::1"} {
		t.Run(a, func(t *testing.T) {
			t.Parallel()
			here, _ := street(t)
			var taken *Taken
			if err := here.Do(func() error { return Take(t.Context(), "eth0", netip.MustParseAddr(a)) }); !errors.As(err, &taken) {
				t.Fatalf("got %v", err)
			}
			if out := addresses(t, here); strings.Contains(out, a+"/") {
				t.Errorf("it was taken all the same:\n%s", out)
			}
		})
	}
}

func TestOneWhoSaysThatHeHasTheAddressIsHeard(t *testing.T) {
	here, there := street(t)
	a := netip.MustParseAddr("10.0.0.3")
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan net.HardwareAddr, 16)
	ended := make(chan error, 1)
	go func() {
		ended <- here.Do(func() error {
			return Watch(ctx, "eth0", a, func(by net.HardwareAddr) {
				select {
				case heard <- by:
				default:
				}
			})
		})
	}()
	for begun := false; !begun; {
		// Said again until the other side listens.
		do(t, there, func() error { return Announce("eth0", a) })
		select {
		case <-heard:
			begun = true
		case <-time.After(20 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWithoutARPNobodyCanBeAsked(t *testing.T) {
	here, _ := street(t)
	if err := here.Do(func() error { return Take(t.Context(), "lo", netip.MustParseAddr("10.0.0.3")) }); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

func TestWhereTheKernelDoesNotAskNoAddressIsTaken(t *testing.T) {
	here, _ := street(t)
	here.Sysctl("net.ipv6.conf.eth0.accept_dad", "0")
	if err := here.Do(func() error { return Take(t.Context(), "eth0", netip.MustParseAddr("2001:db8::3")) }); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

func addresses(t *testing.T, h *lab.Host) string {
	t.Helper()
	out, err := h.Command(t, "ip", "addr", "show", "dev", "eth0").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func do(t *testing.T, h *lab.Host, f func() error) {
	t.Helper()
	if err := h.Do(f); err != nil {
		t.Fatal(err)
	}
}

func FuzzParseARP(f *testing.F) {
	m := arp{request: true, senderMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, sender: netip.IPv4Unspecified(), target: netip.MustParseAddr("10.0.0.3")}
	f.Add(m.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parseARP(b)
		if !ok {
			return
		}
		if again, ok := parseARP(m.bytes()); !ok || !bytes.Equal(again.bytes(), m.bytes()) {
			t.Errorf("%+v is read back as %+v", m, again)
		}
	})
}
