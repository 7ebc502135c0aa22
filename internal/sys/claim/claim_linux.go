package claim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The times of RFC 5227 §1.1.
const (
	probeWait     = time.Second
	probeNum      = 3
	probeMin      = time.Second
	probeMax      = 2 * time.Second
	announceWait  = 2 * time.Second
	announceTimes = 2
)

// dadTime is more than the kernel needs to look for another owner of an IPv6
// address: one probe, one second, and up to one second before it.
const dadTime = 10 * time.Second

func take(ctx context.Context, on string, a netip.Addr) error {
	if a.Is4() {
		if err := probe(ctx, on, a); err != nil {
			return err
		}
		if err := renew(on, a); err != nil {
			return err
		}
		return announce(on, a)
	}
	if err := looked(on); err != nil {
		return err
	}
	if err := renew(on, a); err != nil {
		return err
	}
	if err := settled(ctx, on, a); err != nil {
		release(on, a)
		return err
	}
	return nil
}

// probe asks three times who has a, and waits (RFC 5227 §2.1.1).
func probe(ctx context.Context, on string, a netip.Addr) error {
	link, s, err := listenARP(on)
	if err != nil {
		return err
	}
	defer s.Close()
	own := link.Attrs().HardwareAddr
	question := arp{request: true, senderMAC: own, sender: netip.IPv4Unspecified(), target: a}
	taken := func(m *arp) bool {
		// Who has it answers or announces; who wants it as well asks as we do.
		another := string(m.senderMAC) != string(own)
		return another && (m.sender == a || m.request && m.sender.IsUnspecified() && m.target == a)
	}
	wait := rand.N(probeWait)
	for i := 0; i <= probeNum; i++ {
		m, err := s.hear(ctx, wait, taken)
		if err != nil {
			return fmt.Errorf("ask %s who has %s: %w", on, a, err)
		}
		if m != nil {
			return &Taken{Addr: a, On: on, By: m.senderMAC}
		}
		if i == probeNum {
			break
		}
		if err := s.say(&question); err != nil {
			return fmt.Errorf("ask %s who has %s: %w", on, a, err)
		}
		if wait = probeMin + rand.N(probeMax-probeMin); i == probeNum-1 {
			wait = announceWait
		}
	}
	return nil
}

// looked is an error where the kernel would not look for another owner.
func looked(on string) error {
	for _, which := range []string{"all", on} {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + which + "/accept_dad")
		if err != nil {
			return fmt.Errorf("interface %s has no IPv6: %w", on, err)
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n > 0 {
			return nil
		}
	}
	return fmt.Errorf("nobody is asked who has an IPv6 address on %s: net.ipv6.conf.%[1]s.accept_dad is 0: %w", on, errors.ErrUnsupported)
}

// settled waits until the kernel has found that nobody else has a.
func settled(ctx context.Context, on string, a netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, dadTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		flags, err := flagsOf(on, a)
		switch {
		case err != nil:
			return err
		case flags&unix.IFA_F_DADFAILED != 0:
			return &Taken{Addr: a, On: on}
		case flags&unix.IFA_F_TENTATIVE == 0:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s on %s: whether somebody has it did not come out: %w", a, on, ctx.Err())
		case <-tick.C:
		}
	}
}

func flagsOf(on string, a netip.Addr) (int, error) {
	link, err := netlink.LinkByName(on)
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", on, err)
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return 0, fmt.Errorf("addresses of %s: %w", on, err)
	}
	for _, have := range list {
		if got, ok := netip.AddrFromSlice(have.IP); ok && got.Unmap() == a {
			return have.Flags, nil
		}
	}
	return 0, &Taken{Addr: a, On: on} // the kernel takes one away that somebody has
}

func renew(on string, a netip.Addr) error {
	link, err := netlink.LinkByName(on)
	if err != nil {
		return fmt.Errorf("interface %s: %w", on, err)
	}
	addr := asAddr(a)
	addr.ValidLft, addr.PreferedLft = int(Life/time.Second), int(Life/time.Second)
	if a.Is6() {
		addr.PreferedLft = 0 // connections of this host do not begin there
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("give %s the address %s: %w", on, a, err)
	}
	return nil
}

func release(on string, a netip.Addr) error {
	link, err := netlink.LinkByName(on)
	if err != nil {
		var gone netlink.LinkNotFoundError
		if errors.As(err, &gone) {
			return nil
		}
		return fmt.Errorf("interface %s: %w", on, err)
	}
	if err := netlink.AddrDel(link, asAddr(a)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("take the address %s from %s: %w", a, on, err)
	}
	return nil
}

func asAddr(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
}

func announce(on string, a netip.Addr) error {
	if a.Is6() {
		return announce6(on, a)
	}
	link, s, err := listenARP(on)
	if err != nil {
		return err
	}
	defer s.Close()
	say := arp{request: true, senderMAC: link.Attrs().HardwareAddr, sender: a, target: a}
	for range announceTimes {
		if err := s.say(&say); err != nil {
			return fmt.Errorf("announce %s on %s: %w", a, on, err)
		}
	}
	return nil
}

// announce6 sends an unsolicited neighbour advertisement to all nodes (RFC 4861
// §7.2.6).
func announce6(on string, a netip.Addr) error {
	link, err := netlink.LinkByName(on)
	if err != nil {
		return fmt.Errorf("interface %s: %w", on, err)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	index := link.Attrs().Index
	for option, value := range map[int]int{unix.IPV6_MULTICAST_HOPS: 255, unix.IPV6_MULTICAST_IF: index} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, option, value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: a.As16(), ZoneId: uint32(index)}); err != nil {
		return fmt.Errorf("announce %s on %s: %w", a, on, err)
	}
	const override = 0x20
	addr := a.As16()
	b := append([]byte{136, 0, 0, 0, override, 0, 0, 0}, addr[:]...)
	b = append(append(b, 2, 1), link.Attrs().HardwareAddr...)
	all := unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(index)}
	if err := unix.Sendto(fd, b, 0, &all); err != nil {
		return fmt.Errorf("announce %s on %s: %w", a, on, err)
	}
	return nil
}

func watch(ctx context.Context, on string, a netip.Addr, told func(net.HardwareAddr)) error {
	if a.Is6() {
		<-ctx.Done()
		return nil
	}
	link, s, err := listenARP(on)
	if err != nil {
		return err
	}
	defer s.Close()
	own := string(link.Attrs().HardwareAddr)
	for {
		m, err := s.hear(ctx, time.Hour, func(m *arp) bool { return m.sender == a && string(m.senderMAC) != own })
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("listen for %s on %s: %w", a, on, err)
		case m != nil:
			told(m.senderMAC)
		}
	}
}
