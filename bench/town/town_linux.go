package town

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of the town. The client has several, so that a thousand clients
// are not one source.
var (
	ClientAddrs = addrs("10.99.1.1", 16)
	EntryAddr   = netip.MustParseAddr("10.99.1.254") // the middle, seen from the client
	farMiddle   = netip.MustParseAddr("10.99.2.254")
	ServerAddr  = netip.MustParseAddr("10.99.2.1")
)

// A Town is the three hosts. Packets from the client reach the server through
// the middle, which routes them: the plain route that forwarders are compared
// with.
type Town struct {
	Client, Middle, Server *Host

	groups   groups
	gateways []*Host
}

// New makes a town; the caller closes it. It needs root. From then on, processes
// whose parent ends become children of this one.
func New() (*Town, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("take in orphans: %w", err)
	}
	t := &Town{}
	if err := t.build(); err != nil {
		t.Close()
		return nil, fmt.Errorf("make the namespaces: %w", err)
	}
	var err error
	if t.groups, err = newGroups(); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func (t *Town) build() error {
	for _, h := range []struct {
		at   **Host
		name string
	}{{&t.Client, "client"}, {&t.Middle, "middle"}, {&t.Server, "server"}} {
		made, err := newHost(h.name)
		if err != nil {
			return err
		}
		*h.at = made
	}
	if err := t.Middle.join("toclient", t.Client, "wire"); err != nil {
		return err
	}
	if err := t.Middle.join("toserver", t.Server, "wire"); err != nil {
		return err
	}
	for _, a := range ClientAddrs {
		if err := t.Client.address("wire", a); err != nil {
			return err
		}
	}
	if err := errors.Join(
		t.Middle.address("toclient", EntryAddr), t.Middle.address("toserver", farMiddle),
		t.Server.address("wire", ServerAddr)); err != nil {
		return err
	}
	if err := errors.Join(t.Client.routeBy("wire", EntryAddr), t.Server.routeBy("wire", farMiddle)); err != nil {
		return err
	}
	for _, h := range t.hosts() {
		if err := tune(h); err != nil {
			return err
		}
	}
	return nil
}

// tune makes a host route, and have room for many connections.
func tune(h *Host) error {
	for name, value := range map[string]string{
		"net.ipv4.ip_forward":            "1",
		"net.ipv4.ip_local_port_range":   "1024 65000",
		"net.ipv4.tcp_tw_reuse":          "1",
		"net.ipv4.tcp_max_tw_buckets":    "32768",
		"net.ipv4.tcp_max_syn_backlog":   "8192",
		"net.core.somaxconn":             "8192",
		"net.ipv4.tcp_no_metrics_save":   "1",
		"net.ipv4.conf.all.rp_filter":    "0",
		"net.ipv4.conf.all.log_martians": "0",
	} {
		if err := h.Sysctl(name, value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Congestion makes algorithm the default of new TCP connections on all hosts.
func (t *Town) Congestion(algorithm string) error {
	for _, h := range t.hosts() {
		if err := h.Sysctl("net.ipv4.tcp_congestion_control", algorithm); err != nil {
			return err
		}
	}
	return nil
}

// MTU is that of the wires.
func (t *Town) MTU() (mtu int) {
	t.Client.Do(func() error {
		link, err := netlink.LinkByName("wire")
		if err == nil {
			mtu = link.Attrs().MTU
		}
		return err
	})
	return mtu
}

// Close ends every program of the town and removes it.
func (t *Town) Close() error {
	var err error
	if t.groups != nil {
		err = t.groups.close()
	}
	for _, h := range t.hosts() {
		if h != nil {
			h.close()
		}
	}
	return err
}

func (t *Town) hosts() []*Host { return append([]*Host{t.Client, t.Middle, t.Server}, t.gateways...) }

// A Host is one namespace, and the thread that lives in it. What is started
// from that thread lives there as well, and dies with it.
type Host struct {
	Name string

	thread int // its id, by which the namespace can be entered
	calls  chan func()
	ended  chan struct{}
}

func newHost(name string) (*Host, error) {
	h := &Host{Name: name, calls: make(chan func()), ended: make(chan struct{})}
	made := make(chan error, 1)
	go h.live(made)
	if err := <-made; err != nil {
		return nil, fmt.Errorf("namespace of the %s: %w", name, err)
	}
	return h, h.up("lo")
}

// live runs calls on the host's thread until the host is closed. The thread
// is never unlocked, so that it ends with this goroutine.
func (h *Host) live(made chan<- error) {
	defer close(h.ended)
	runtime.LockOSThread()
	h.thread = unix.Gettid()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		made <- err
		return
	}
	made <- nil
	for call := range h.calls {
		call()
	}
}

func (h *Host) close() {
	close(h.calls)
	<-h.ended
}

// Do runs f on the host's thread.
func (h *Host) Do(f func() error) error {
	done := make(chan error, 1)
	h.calls <- func() { done <- f() }
	return <-done
}

// Enter is the shell command that opens a shell in the host.
func (h *Host) Enter() string {
	return fmt.Sprintf("nsenter --net=/proc/%d/task/%d/ns/net", os.Getpid(), h.thread)
}

// Sysctl sets a value of the host's namespace.
func (h *Host) Sysctl(name, value string) error {
	return h.Do(func() error {
		if err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0); err != nil {
			return fmt.Errorf("set %s to %s on the %s: %w", name, value, h.Name, err)
		}
		return nil
	})
}

// ReadSysctl reads a value of the host's namespace.
func (h *Host) ReadSysctl(name string) (value string, err error) {
	err = h.Do(func() error {
		b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		value = strings.TrimSpace(string(b))
		return err
	})
	return value, err
}

// join lays a wire between two hosts.
func (h *Host) join(name string, other *Host, otherName string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	err := h.Do(func() error {
		ns, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", other.thread), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(ns)
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: otherName, PeerNamespace: netlink.NsFd(ns)})
	})
	if err != nil {
		return fmt.Errorf("join %s and %s: %w", h.Name, other.Name, err)
	}
	return errors.Join(h.up(name), other.up(otherName))
}

func (h *Host) up(name string) error {
	return h.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
}

func (h *Host) address(name string, a netip.Addr) error {
	return h.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(a.String() + "/24")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(link, addr)
	})
}

func (h *Host) routeBy(name string, via netip.Addr) error {
	return h.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: via.AsSlice()})
	})
}

func addrs(first string, n int) []netip.Addr {
	all := make([]netip.Addr, n)
	for i, a := 0, netip.MustParseAddr(first); i < n; i, a = i+1, a.Next() {
		all[i] = a
	}
	return all
}
