package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace and a netlink handle that works in it.
type namespace struct {
	fd netns.NsHandle
	nl *netlink.Handle
}

func newNamespace() (ns namespace, err error) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return namespace{}, fmt.Errorf("open this thread's namespace: %w", err)
	}
	defer home.Close()
	fd, err := netns.New()
	if err != nil {
		runtime.UnlockOSThread()
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("this root may not make network namespaces (%v): %w", err, errors.ErrUnsupported)
		}
		return namespace{}, err
	}
	goHome(home)
	ns.fd = fd
	if ns.nl, err = netlink.NewHandleAt(fd, unix.NETLINK_ROUTE); err != nil {
		fd.Close()
		return namespace{}, fmt.Errorf("open netlink in the new namespace: %w", err)
	}
	// Link-local addresses come by themselves and would be tentative for a
	// second or two.
	err = ns.do(func() error {
		for _, which := range []string{"all", "default"} {
			err := writeSysctl("net.ipv6.conf."+which+".accept_dad", "0")
			if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
				return err
			}
		}
		return nil
	})
	if err != nil {
		ns.close()
	}
	return ns, err
}

func (ns namespace) close() {
	ns.nl.Close()
	ns.fd.Close()
}

func (ns namespace) do(f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open this thread's namespace: %w", err)
	}
	defer home.Close()
	if err := netns.Set(ns.fd); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the namespace: %w", err)
	}
	// Deferred, so that a test that ends inside f leaves a clean thread too.
	defer goHome(home)
	return f()
}

// goHome takes the thread back and frees it for other goroutines. A thread
// that cannot go back stays locked and dies with its goroutine.
func goHome(home netns.NsHandle) {
	if err := netns.Set(home); err != nil {
		panic(fmt.Sprintf("lab: cannot leave a namespace: %v", err))
	}
	runtime.UnlockOSThread()
}

func (ns namespace) addVeth(name string, peer *namespace, peerName string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return ns.nl.LinkAdd(&netlink.Veth{
		LinkAttrs:     attrs,
		PeerName:      peerName,
		PeerNamespace: netlink.NsFd(int(peer.fd)),
	})
}

func (ns namespace) addBridge(name string, ports []string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := ns.nl.LinkAdd(bridge); err != nil {
		return err
	}
	for _, port := range ports {
		link, err := ns.nl.LinkByName(port)
		if err != nil {
			return fmt.Errorf("port %s: %w", port, err)
		}
		if err := ns.nl.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("port %s: %w", port, err)
		}
	}
	return nil
}

func (ns namespace) addAddr(name, cidr string) error {
	link, err := ns.nl.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD
	}
	return ns.nl.AddrAdd(link, addr)
}

func (ns namespace) dropAddr(name, cidr string) error {
	link, err := ns.nl.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return ns.nl.AddrDel(link, addr)
}

func (ns namespace) addRoute(dst, via, name string) error {
	_, prefix, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	route := &netlink.Route{Dst: prefix}
	if via != "" {
		if route.Gw = net.ParseIP(via); route.Gw == nil {
			return fmt.Errorf("router %q is no address", via)
		}
	}
	if name != "" {
		link, err := ns.nl.LinkByName(name)
		if err != nil {
			return err
		}
		route.LinkIndex = link.Attrs().Index
	}
	return ns.nl.RouteAdd(route)
}

func (ns namespace) setUp(name string, up bool) error {
	link, err := ns.nl.LinkByName(name)
	if err != nil {
		return err
	}
	if up {
		return ns.nl.LinkSetUp(link)
	}
	return ns.nl.LinkSetDown(link)
}

func (ns namespace) removeLink(name string) error {
	link, err := ns.nl.LinkByName(name)
	if err != nil {
		return err
	}
	return ns.nl.LinkDel(link)
}

// writeSysctl writes the parameter of the namespace the thread is in.
func writeSysctl(key, value string) error {
	return os.WriteFile("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), []byte(value), 0)
}
