package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// A key names a listening socket: network and address, or a path.
type key struct {
	network string // tcp, udp, unix
	at      netip.AddrPort
	path    string
}

func (k key) String() string {
	if k.network == "unix" {
		return "unix:" + k.path
	}
	return k.at.String() + "/" + k.network
}

// keyOf is the key of a socket that a service manager passed.
func keyOf(f *os.File) (key, bool) {
	if ln, err := net.FileListener(f); err == nil {
		defer ln.Close()
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // it is the manager's
			return key{network: "unix", path: u.Addr().String()}, true
		}
		return key{network: "tcp", at: sock.AddrPort(ln.Addr())}, true
	}
	if pc, err := net.FilePacketConn(f); err == nil {
		defer pc.Close()
		return key{network: "udp", at: sock.AddrPort(pc.LocalAddr())}, true
	}
	return key{}, false
}

// An entry is one listening socket and the rule behind it at the moment.
type entry struct {
	r    *Relay
	key  key
	rule atomic.Pointer[binding]
	ln   net.Listener // tcp, unix; goroutines accept
	ear  *listening   // tcp; event loops accept
	udp  *udpEntry
	gone context.Context // ends when the socket is closed
	stop context.CancelFunc

	dscp      int           // code point that answers have; 0: the system's
	inherited time.Duration // keepalive that accepted connections have by themselves; see rule.keepalive
	file      os.FileInfo   // of a unix socket
}

// A binding is the rule behind an entry, and which of its ports the entry is.
type binding struct {
	rule *rule
	port int // index into the rule's listening ports
}

// A hearing is what became of a rule's wish to listen.
type hearing struct {
	bound   []string
	problem *fairlead.Problem // the first
}

// hearingFrom is where the relay listens now, for who asks without its lock.
// It is never changed.
type hearingFrom struct {
	entries map[key]*entry
	ports   map[uint16]bool
}

// listen makes the sockets those that rules want. The caller holds r.mu.
func (r *Relay) listen(ctx context.Context, rules []*rule) {
	type wanted struct {
		key key
		b   *binding
		h   *hearing
	}
	var want []wanted
	wants := map[key]*rule{}
	hearings := make([]hearing, len(rules))
	left := r.budget.size - r.budget.size/4 // or connections would find none
	for i, ru := range rules {
		h := &hearings[i]
		var keys []portKey
		keys, h.problem = r.keys(ru)
		if int64(len(keys)) > left {
			h.problem = fairlead.Problemf(fairlead.CodeTooManyPorts, "%s needs %d sockets, and this process may have %d more for listening",
				ru.f.At.String(), len(keys), left).Fix("raise the limit of open files", fmt.Sprintf("ulimit -n %d", 2*(r.budget.size+int64(len(keys)))))
			continue
		}
		left -= int64(len(keys))
		for _, k := range keys {
			switch other := wants[k.key]; other {
			case nil:
				wants[k.key] = ru
				want = append(want, wanted{k.key, &binding{ru, k.port}, h})
			case ru: // an address that was given twice
			default:
				h.fail(fairlead.Problemf(fairlead.CodeOverlap, "%s listens at %s already", other.f.Name, k.key))
			}
		}
	}
	// First what goes, so that 0.0.0.0:80 can become 127.0.0.1:80.
	for k, e := range r.entries {
		if wants[k] == nil || e.lost() {
			delete(r.entries, k)
			e.close()
		}
	}
	for _, w := range want {
		e := r.entries[w.key]
		if e == nil {
			var err error
			e, err = r.open(ctx, w.key, w.b)
			switch {
			case err == nil:
				r.entries[w.key] = e
			case noFamily(w.key, err):
				continue
			case wants[r.dual(w.key)] == w.b.rule:
				// The socket that was passed for IPv6 takes IPv4 with it.
			case w.h.problem != nil:
				continue // to find out who holds each of a thousand ports takes long
			default:
				w.h.fail(r.listenProblem(w.b.rule.f, w.key, err))
				continue
			}
		} else if b := e.rule.Load(); b.rule != w.b.rule || b.port != w.b.port {
			e.rule.Store(w.b)
		}
		if e != nil {
			e.answering(w.b.rule)
		}
		w.h.bound = append(w.h.bound, w.key.String())
	}
	for i, ru := range rules {
		ru.settle(hearings[i])
	}
	heard := &hearingFrom{maps.Clone(r.entries), map[uint16]bool{}}
	for k := range r.entries {
		heard.ports[k.at.Port()] = true
	}
	r.heard.Store(heard)
}

// dual is the key of the socket that was passed for every IPv6 address and
// takes IPv4 with it, where k is every IPv4 address; the zero key otherwise.
func (r *Relay) dual(k key) key {
	if k.network == "unix" || k.at.Addr() != netip.IPv4Unspecified() {
		return key{}
	}
	k.at = netip.AddrPortFrom(netip.IPv6Unspecified(), k.at.Port())
	if f := r.passed[k]; f == nil || !sock.TakesIPv4(f) {
		return key{}
	}
	return k
}

// lost says that the file of a unix socket was removed or replaced, so that
// nobody finds the socket any more.
func (e *entry) lost() bool {
	if e.file == nil {
		return false
	}
	now, err := os.Lstat(e.key.path)
	return err != nil || !os.SameFile(e.file, now)
}

// noFamily says that the machine has no such address family at all, so that a
// forward for every family simply does without.
func noFamily(k key, err error) bool {
	a := k.at.Addr()
	return k.network != "unix" && a.Is6() && (a.IsUnspecified() || a.IsLoopback()) &&
		(errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL))
}

// fail notes why the rule does not listen somewhere; the first reason stands.
func (h *hearing) fail(p *fairlead.Problem) {
	if h.problem == nil {
		h.problem = p
	}
}

// settle notes all at once how the rule listens, so that a report in between
// sees no half of it, and turns a half success into its own words.
func (ru *rule) settle(h hearing) {
	ru.mu.Lock()
	defer ru.mu.Unlock()
	ru.bound, ru.problem = h.bound, h.problem
	ru.partial = h.problem != nil && len(h.bound) > 0
	switch p := ru.problem; {
	case p == nil && len(ru.bound) == 0:
		ru.problem = fairlead.Problemf(fairlead.CodeListenFailed, "this machine has no address to listen at for %s", ru.f.At.String())
	case p != nil && ru.partial && (p.Code == fairlead.CodeInUse || p.Code == fairlead.CodeInUseByOther) && ru.f.At.Unix == "":
		half := fairlead.Problemf(fairlead.CodeHalfBound, "%s, and free on %s: who connects to the taken one reaches another program, not this forward",
			strings.Replace(p.What, " already", "", 1), strings.Join(ru.bound[:min(len(ru.bound), 3)], ", "))
		half.Notes = p.Notes
		half.Fixes = append(half.Fixes, p.Fixes...)
		if len(ru.bound) == 1 {
			host, _, _ := strings.Cut(ru.bound[0], "/")
			half.Fix("say that one family is enough", "fairlead "+strings.Replace(ru.f.Expr, ru.f.At.String(), host+"/"+ru.f.At.Net.String(), 1))
		}
		half.Fixes = half.Fixes[:min(len(half.Fixes), 3)]
		half.Err = p
		ru.problem = half
	}
}

type portKey struct {
	key  key
	port int
}

// keys is where a rule wants to listen.
func (r *Relay) keys(ru *rule) ([]portKey, *fairlead.Problem) {
	at := &ru.f.At
	if ru.place == nil {
		return nil, ru.noPlace
	}
	if p := ru.cannotLeave(); p != nil {
		return nil, p
	}
	if ru.unsecured != nil {
		return nil, ru.unsecured
	}
	if at.Unix != "" {
		return []portKey{{key{network: "unix", path: at.Unix}, 0}}, nil
	}
	var addrs []netip.Addr
	switch {
	case at.Any, at.Addr.IsValid() && at.Addr == netip.IPv6Unspecified():
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	case at.Addr.IsValid():
		addrs = []netip.Addr{at.Addr.Unmap()}
	case at.Where != "":
		if r.cfg.Interfaces == nil {
			return nil, fairlead.Problemf(fairlead.CodeNoInterface, "this system cannot tell the addresses of %q", at.Where)
		}
		var err error
		if addrs, err = r.cfg.Interfaces(at.Where); err != nil {
			return nil, fairlead.AsProblem(err)
		}
		addrs = slices.DeleteFunc(slices.Clone(addrs), netip.Addr.IsLinkLocalUnicast)
		if len(addrs) == 0 {
			return nil, fairlead.Problemf(fairlead.CodeNoInterface, "%s has no address at the moment", at.Where)
		}
	default:
		addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	var keys []portKey
	at.Net.Each(func(network string) {
		for i := range at.Ports.Len() {
			for _, a := range addrs {
				keys = append(keys, portKey{key{network: network, at: netip.AddrPortFrom(a, at.Ports.At(i))}, i})
			}
		}
	})
	return keys, nil
}

// open makes the socket k and begins to serve it.
func (r *Relay) open(ctx context.Context, k key, b *binding) (*entry, error) {
	if r.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	if !r.budget.try(1) {
		return nil, syscall.EMFILE
	}
	e := &entry{r: r, key: k, inherited: b.rule.keepalive}
	e.rule.Store(b)
	e.gone, e.stop = context.WithCancel(r.ctx)
	if err := e.listen(ctx, b); err != nil {
		e.stop()
		r.budget.give(1)
		return nil, err
	}
	switch {
	case e.udp != nil:
		e.udp.server.serve()
	case e.key.network == "tcp" && r.engine.listen(e):
	default:
		r.wg.Go(e.accept)
	}
	return e, nil
}

func (e *entry) listen(ctx context.Context, b *binding) (err error) {
	if f := e.r.passed[e.key]; f != nil {
		return e.adopt(f)
	}
	switch e.key.network {
	case "tcp":
		// Assigned through variables: a nil pointer in an interface is not nil.
		ln, lerr := sock.ListenTCP(ctx, e.key.at, sock.Options{Keepalive: b.rule.f.Policy.Keepalive})
		if err = lerr; err == nil {
			e.ln = ln
		}
	case "unix":
		ln, lerr := sock.ListenUnix(ctx, e.key.path, modeOf(b.rule.f))
		if err = lerr; err == nil {
			// Whoever replaces the file meanwhile shall keep theirs: close removes it only while it is ours.
			ln.SetUnlinkOnClose(false)
			e.file, _ = os.Lstat(e.key.path)
			e.ln = ln
		}
	case "udp":
		c, lerr := sock.ListenUDP(ctx, e.key.at)
		if err = lerr; err == nil {
			e.udp = newUDPEntry(e, c)
		}
	}
	return err
}

// modeOf is who may connect to f's unix socket: unless the sentence says it,
// only the user of the program.
func modeOf(f *fairlead.Forward) fs.FileMode {
	if m := f.Policy.SocketMode; m != 0 {
		return fs.FileMode(m)
	}
	return 0o600
}

// adopt serves a socket that was passed; f stays open for the next reload.
func (e *entry) adopt(f *os.File) error {
	if e.key.network == "udp" {
		pc, err := net.FilePacketConn(f)
		if err != nil {
			return err
		}
		if err := sock.PrepareUDP(pc.(*net.UDPConn)); err != nil {
			pc.Close()
			return err
		}
		e.udp = newUDPEntry(e, pc.(*net.UDPConn))
		return nil
	}
	e.inherited = -1 // whatever the manager chose
	ln, err := net.FileListener(f)
	if err != nil {
		return err
	}
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	e.ln = ln
	return nil
}

// close ends the socket. Connections that came through it live on; UDP
// sessions end, having no socket to answer from.
func (e *entry) close() {
	e.stop()
	switch {
	case e.udp != nil:
		e.udp.close()
	case e.ear != nil:
		e.ear.close()
	default:
		if e.file != nil && !e.lost() {
			os.Remove(e.key.path)
		}
		e.ln.Close()
	}
	e.r.budget.give(1)
}

// listenProblem puts a failure to listen into words.
func (r *Relay) listenProblem(f *fairlead.Forward, k key, err error) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodeListenFailed, "cannot listen at %s: %v", k, cause(err))
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && k.network == "unix":
		p = r.pathInUse(k)
	case errors.Is(err, syscall.EADDRINUSE):
		p = r.inUse(f, k)
	case errors.Is(err, syscall.EACCES) && k.network != "unix":
		p = lowPort(f, k)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		p = fairlead.Problemf(fairlead.CodeNotOurAddress, "%s is not an address of this machine", k.at.Addr()).
			Fix("every address", "fairlead "+withSpot(f, ":"+portText(k)))
	case sock.NoDescriptors(err):
		p = fairlead.Problemf(fairlead.CodeNoDescriptors, "no descriptor is left to listen at %s", k)
	}
	p.Err = err
	return p
}

func (r *Relay) pathInUse(k key) *fairlead.Problem {
	if st, err := os.Lstat(k.path); err == nil && st.Mode().Type() != fs.ModeSocket {
		return fairlead.Problemf(fairlead.CodePathInUse, "%s is a file and not a socket, and is left as it is", k.path)
	}
	p := fairlead.Problemf(fairlead.CodePathInUse, "%s is already in use", k)
	if r.cfg.HoldersPath != nil {
		for _, h := range r.cfg.HoldersPath(k.path) {
			p.Note("by", "%s", h.Text)
		}
	}
	return p
}

// inUse says who has the port, and what else could be done.
func (r *Relay) inUse(f *fairlead.Forward, k key) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodeInUse, "%s is already in use", k)
	var holders []Holder
	if other := r.ownHolder(k); other != "" {
		p.Note("by", "the forward %s, at the same port of every address or of one", other)
	} else if r.cfg.Holders != nil {
		holders = r.cfg.Holders(k.network, k.at)
	}
	for _, h := range holders {
		p.Note("by", "%s", h.Text)
		if h.Hidden {
			p.Code = fairlead.CodeInUseByOther
		}
	}
	if other, ok := r.freePort(k); ok && len(f.At.Ports) == 1 && f.At.Ports[0].Len() == 1 {
		spot := f.At
		spot.Ports = fairlead.PortList{{First: other, Last: other}}
		p.Fix("another port", "fairlead "+withSpot(f, spot.String()))
	}
	for _, h := range holders {
		switch {
		case h.Unit != "":
			p.Fix("stop the other program", "sudo systemctl stop "+h.Unit)
			return p
		case h.Hidden:
			p.Fix("see which one it is", "sudo fairlead "+f.Expr)
			return p
		}
	}
	return p
}

// ownHolder is the forward of this relay that keeps k from being listened at.
func (r *Relay) ownHolder(k key) string {
	for other, e := range r.entries {
		a, b := other.at.Addr(), k.at.Addr()
		if other.network == k.network && other.at.Port() == k.at.Port() &&
			a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified()) {
			return e.rule.Load().rule.f.Name
		}
	}
	return ""
}

// freePort finds a port near k's that nobody listens at.
func (r *Relay) freePort(k key) (uint16, bool) {
	if r.cfg.Listens == nil {
		return 0, false
	}
	start := int(k.at.Port()) + 1
	if start <= 1024 {
		start = int(k.at.Port()) + 8000
	}
	for p := start; p < min(start+50, 65536); p++ {
		if yes, known := r.cfg.Listens(k.network, netip.AddrPortFrom(k.at.Addr(), uint16(p))); known && !yes {
			return uint16(p), true
		}
	}
	return 0, false
}

func lowPort(f *fairlead.Forward, k key) *fairlead.Problem {
	start := "1024"
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil {
		start = strings.TrimSpace(string(b))
	}
	exe, err := os.Executable()
	if err != nil {
		exe = "fairlead"
	}
	high := f.At
	high.Ports = nil
	for _, r := range f.At.Ports {
		if r.Last < 1024 {
			r.First, r.Last = r.First+8000, r.Last+8000
		}
		high.Ports = append(high.Ports, r)
	}
	return fairlead.Problemf(fairlead.CodeLowPort, "port %d needs a privilege: ports below %s are reserved", k.at.Port(), start).
		Note("why", "net.ipv4.ip_unprivileged_port_start = %s, and this process has no CAP_NET_BIND_SERVICE", start).
		Fix("run it as a service, which gets just that right", "sudo systemctl enable --now fairlead").
		Fix("give the right to the program", "sudo setcap cap_net_bind_service=+ep "+exe).
		Fix("a high port", "fairlead "+withSpot(f, high.String()))
}

// withSpot is f's sentence with another listening spot.
func withSpot(f *fairlead.Forward, spot string) string {
	if f.Expr == "" {
		return string(f.Kind) + " " + spot
	}
	return strings.Replace(f.Expr, f.At.String(), spot, 1)
}

func portText(k key) string {
	return strings.TrimPrefix(netip.AddrPortFrom(netip.IPv4Unspecified(), k.at.Port()).String(), "0.0.0.0:") + "/" + k.network
}

// cause is the system's own words, without the operation's name around them.
func cause(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}
