package netmon

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

var everywhere = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// namespace puts the test's thread into a fresh network namespace.
func namespace(t *testing.T) netns.NsHandle {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("FAIRLEAD_NO_SKIP") != "" {
			t.Fatal("needs root to make a network namespace")
		}
		t.Skip("needs root to make a network namespace")
	}
	runtime.LockOSThread()
	old, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Set(old); err != nil {
			panic(err) // the thread must not go on elsewhere
		}
		old.Close()
		fresh.Close()
		runtime.UnlockOSThread()
	})
	up(t, "lo")
	return fresh
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func up(t *testing.T, name string) {
	t.Helper()
	must(t, netlink.LinkSetUp(link(t, name)))
}

// cable makes two interfaces that are up and joined.
func cable(t *testing.T, a, b string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b}))
	up(t, a)
	up(t, b)
}

func addr(t *testing.T, name, prefix string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(prefix)
	must(t, err)
	a.Flags = unix.IFA_F_NODAD // usable at once
	return a
}

func addAddr(t *testing.T, name, prefix string) {
	t.Helper()
	must(t, netlink.AddrAdd(link(t, name), addr(t, name, prefix)))
}

func delAddr(t *testing.T, name, prefix string) {
	t.Helper()
	must(t, netlink.AddrDel(link(t, name), addr(t, name, prefix)))
}

func addRoute(t *testing.T, name, dst, via string, metric int) {
	t.Helper()
	_, to, err := net.ParseCIDR(dst)
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link(t, name).Attrs().Index, Dst: to, Gw: net.ParseIP(via), Priority: metric}))
}

func TestAddressesOfAnInterface(t *testing.T) {
	namespace(t)
	cable(t, "a0", "b0")
	addAddr(t, "a0", "fe80::1/64")
	addAddr(t, "a0", "2001:db8::1/64")
	addAddr(t, "a0", "192.0.2.1/24")
	addAddr(t, "a0", "192.0.2.2/24")
	addAddr(t, "a0", "192.0.2.9/32") // point to point
	got, err := Addresses("a0")
	must(t, err)
	for _, want := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.9", "2001:db8::1", "fe80::1%a0"} {
		if !slices.Contains(got, netip.MustParseAddr(want)) {
			t.Errorf("%s is missing in %v", want, got)
		}
	}
	if !got[0].Is4() || got[len(got)-1].Is4() {
		t.Errorf("v4 does not come first: %v", got)
	}

	delAddr(t, "a0", "192.0.2.2/24")
	if got, err = Addresses("a0"); err != nil || slices.Contains(got, netip.MustParseAddr("192.0.2.2")) {
		t.Errorf("after removal: %v, %v", got, err)
	}
	all, err := Local()
	must(t, err)
	for _, want := range []string{"127.0.0.1", "::1", "192.0.2.1", "fe80::1%a0"} {
		if !slices.Contains(all, netip.MustParseAddr(want)) {
			t.Errorf("%s is missing in %v", want, all)
		}
	}
	if _, err := Addresses("wan7"); err == nil || err.Error() != "addresses of wan7: no such network interface" {
		t.Errorf("got %v", err)
	}
}

func TestDefaultTellsTheTwoSides(t *testing.T) {
	namespace(t)
	check := func(wantWAN, wantLAN string) {
		t.Helper()
		wan, lan, err := Default()
		must(t, err)
		if fmt.Sprint(wan) != wantWAN || fmt.Sprint(lan) != wantLAN {
			t.Errorf("wan %v lan %v, want %s and %s", wan, lan, wantWAN, wantLAN)
		}
	}
	check("[]", "[]")
	cable(t, "up1", "up1far")
	cable(t, "up2", "up2far")
	cable(t, "in1", "in1far")
	cable(t, "in2", "in2far")
	cable(t, "pub", "pubfar")
	addAddr(t, "up1", "10.1.0.1/24") // private, and still wan: there is the default route
	addAddr(t, "up2", "198.51.100.1/24")
	addAddr(t, "in1", "192.168.1.1/24")
	addAddr(t, "in2", "fd00:1::1/64")
	addAddr(t, "pub", "203.0.113.1/24")
	check("[]", "[up1 in1 in2]")

	addRoute(t, "up2", "0.0.0.0/0", "198.51.100.254", 200)
	addRoute(t, "up1", "0.0.0.0/0", "10.1.0.254", 100)
	addRoute(t, "pub", "0.0.0.0/1", "203.0.113.254", 10) // half the world is no default
	check("[up1 up2]", "[in1 in2]")

	addAddr(t, "pub", "2001:db8:5::1/64")
	addRoute(t, "pub", "::/0", "2001:db8:5::fe", 50)
	check("[up1 up2 pub]", "[in1 in2]")

	// A route that leads nowhere leads nowhere.
	must(t, netlink.RouteAdd(&netlink.Route{Dst: everywhere, Type: unix.RTN_UNREACHABLE, Priority: 1}))
	check("[up1 up2 pub]", "[in1 in2]")

	must(t, netlink.LinkSetDown(link(t, "up1"))) // its route goes, and it is not up
	check("[up2 pub]", "[in1 in2]")
}

func TestDefaultRouteOverSeveralInterfaces(t *testing.T) {
	namespace(t)
	cable(t, "up1", "up1far")
	cable(t, "up2", "up2far")
	addAddr(t, "up1", "10.1.0.1/24")
	addAddr(t, "up2", "10.2.0.1/24")
	must(t, netlink.RouteAdd(&netlink.Route{Dst: everywhere, MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: link(t, "up1").Attrs().Index, Gw: net.ParseIP("10.1.0.254")},
		{LinkIndex: link(t, "up2").Attrs().Index, Gw: net.ParseIP("10.2.0.254")},
	}}))
	wan, _, err := Default()
	must(t, err)
	if fmt.Sprint(wan) != "[up1 up2]" {
		t.Errorf("wan %v", wan)
	}
}

// watcher runs Watch in ns; each notice is sent to told.
type watcher struct {
	told  chan time.Time
	ended chan error
	end   context.CancelFunc
}

func watching(t *testing.T, ns netns.NsHandle) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{told: make(chan time.Time), ended: make(chan error, 1), end: cancel}
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := netns.Set(ns); err != nil {
			w.ended <- err
			return
		}
		w.ended <- Watch(ctx, func() {
			select {
			case w.told <- time.Now():
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-w.ended; err != nil {
			t.Errorf("Watch ended with %v", err)
		}
	})
	return w
}

func (w *watcher) next(t *testing.T, why string) time.Time {
	t.Helper()
	select {
	case at := <-w.told:
		return at
	case <-time.After(10 * time.Second):
		t.Fatalf("not told of %s", why)
		return time.Time{}
	}
}

func TestWatchTellsOfChanges(t *testing.T) {
	ns := namespace(t)
	cable(t, "a0", "b0")
	addAddr(t, "a0", "192.0.2.1/24")
	w := watching(t, ns)
	last := w.next(t, "the beginning")
	for _, change := range []struct {
		name string
		do   func()
	}{
		{"a new address", func() { addAddr(t, "a0", "10.9.0.1/24") }},
		{"a removed address", func() { delAddr(t, "a0", "10.9.0.1/24") }},
		{"a v6 address", func() { addAddr(t, "a0", "2001:db8::1/64") }},
		{"a default route", func() { addRoute(t, "a0", "0.0.0.0/0", "192.0.2.254", 0) }},
		{"new links", func() { cable(t, "c0", "d0") }},
		{"removed links", func() { must(t, netlink.LinkDel(link(t, "c0"))) }},
	} {
		// What came before may still be told of; from here on the change is
		// known to be seen once the state that notify would read has it.
		w.quiet(t)
		change.do()
		at := w.next(t, change.name)
		if gap := at.Sub(last); gap < Settle {
			t.Errorf("told of %s only %v after the notice before", change.name, gap)
		}
		last = at
	}
}

// quiet waits until there was no notice for a while (late kernel events such
// as duplicate address detection).
func (w *watcher) quiet(t *testing.T) {
	t.Helper()
	for {
		select {
		case <-w.told:
		case <-time.After(3 * Settle):
			return
		}
	}
}

func TestWatchGathersCloseChanges(t *testing.T) {
	ns := namespace(t)
	cable(t, "a0", "b0")
	w := watching(t, ns)
	w.next(t, "the beginning")
	w.quiet(t)
	began := time.Now()
	for n := range 50 {
		addAddr(t, "a0", fmt.Sprintf("10.0.%d.1/24", n))
	}
	took := time.Since(began)
	notices := 0
	for quiet := false; !quiet; {
		select {
		case <-w.told:
			notices++
		case <-time.After(3 * Settle):
			quiet = true
		}
	}
	if most := int(took/Settle) + 2; notices == 0 || notices > most {
		t.Errorf("50 changes in %v made %d notices, want 1 to %d", took, notices, most)
	}
}

func TestWatchSurvivesLostNotices(t *testing.T) {
	ns := namespace(t)
	cable(t, "a0", "b0")
	w := watching(t, ns)
	// Watch is held in its first notice while the kernel's queue overflows.
	a0 := link(t, "a0")
	for n := 0; dropped(t) == 0; n++ {
		if n > 5000 {
			t.Fatal("5000 changes did not overflow the queue")
		}
		must(t, netlink.AddrAdd(a0, addr(t, "a0", "10.9.0.1/24")))
		must(t, netlink.AddrDel(a0, addr(t, "a0", "10.9.0.1/24")))
	}
	w.next(t, "the beginning")
	w.next(t, "the changes of which some were lost")
	w.quiet(t)
	addAddr(t, "a0", "10.9.0.2/24")
	w.next(t, "a change after that")
}

// dropped is how many notices the sockets of this namespace have lost.
func dropped(t *testing.T) int {
	t.Helper()
	f, err := os.Open("/proc/thread-self/net/netlink")
	must(t, err)
	defer f.Close()
	sum := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
		if words := strings.Fields(lines.Text()); len(words) == 10 {
			n, _ := strconv.Atoi(words[8])
			sum += n
		}
	}
	return sum
}

func message(kind uint16, body ...byte) []byte {
	b := make([]byte, unix.SizeofNlMsghdr, 64)
	binary.NativeEndian.PutUint32(b, uint32(unix.SizeofNlMsghdr+len(body)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	b = append(b, body...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func route(bits byte) []byte {
	return append([]byte{unix.AF_INET, bits}, make([]byte, unix.SizeofRtMsg-2)...)
}

func TestOnlyDefaultRoutesConcern(t *testing.T) {
	other := message(unix.RTM_NEWROUTE, route(24)...)
	for _, tt := range []struct {
		name string
		b    []byte
		want bool
	}{
		{"nothing", nil, false},
		{"another route", other, false},
		{"two other routes", append(slices.Clone(other), other...), false},
		{"default route", message(unix.RTM_DELROUTE, route(0)...), true},
		{"default route behind another", append(slices.Clone(other), message(unix.RTM_NEWROUTE, route(0)...)...), true},
		{"link", message(unix.RTM_NEWLINK), true},
		{"address", message(unix.RTM_DELADDR, 1, 2, 3), true},
		{"cut off", other[:len(other)-4], true},
		{"too short", []byte{1}, true},
		{"length zero", make([]byte, 16), true},
	} {
		if got := concerns(tt.b); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func FuzzConcerns(f *testing.F) {
	f.Add(message(unix.RTM_NEWROUTE, route(24)...))
	f.Add(message(unix.RTM_NEWROUTE, 1, 2, 3))
	f.Add([]byte{17, 0, 0, 0, 24, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) { concerns(b) })
}

func TestRouteWatchTellsOfWhatMayLeadElsewhere(t *testing.T) {
	namespace(t)
	cable(t, "a0", "b0")
	addAddr(t, "a0", "192.0.2.1/24")
	w, err := WatchRoutes()
	must(t, err)
	defer w.Close()
	if w.Changed() {
		t.Error("a change before anything was changed")
	}
	for _, change := range []struct {
		name string
		do   func()
	}{
		{"a route", func() { addRoute(t, "a0", "198.51.100.0/24", "192.0.2.254", 0) }},
		{"an address", func() { addAddr(t, "a0", "10.9.0.1/24") }},
		{"a link down", func() { must(t, netlink.LinkSetDown(link(t, "a0"))) }},
		{"a rule", func() {
			r := netlink.NewRule()
			r.Table, r.Priority = 100, 100
			must(t, netlink.RuleAdd(r))
		}},
		{"more than the socket holds", func() {
			for i := range 200 {
				addAddr(t, "b0", fmt.Sprintf("10.8.0.%d/32", i+1))
			}
		}},
	} {
		change.do()
		if !w.Changed() {
			t.Errorf("%s was not told of", change.name)
		}
	}
}
