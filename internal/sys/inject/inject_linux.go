package inject

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// injector is a virtual Ethernet interface of this process. What is written to
// its descriptor comes in at it, and a traffic control action leads it to the
// real interface's entrance (tc-mirred(8), ingress redirect). The kernel removes
// the interface with the descriptor, and the filter with the interface.
type injector struct {
	fd  int
	mac net.HardwareAddr
}

// namePattern has the kernel choose the first free number.
const namePattern = "flprobe%d"

func open(ifname string) (_ injector, err error) {
	onto, err := netlink.LinkByName(ifname)
	if err != nil {
		return injector{}, err
	}
	if onto.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
		return injector{}, ErrNoCarrier
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return injector{}, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	req, err := unix.NewIfreq(namePattern)
	if err != nil {
		return injector{}, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return injector{}, os.NewSyscallError("TUNSETIFF", err)
	}
	tap, err := netlink.LinkByName(req.Name())
	if err != nil {
		return injector{}, err
	}
	// Without an address of its own it says nothing on its own.
	const noAddress = 1 // IN6_ADDR_GEN_MODE_NONE
	if err := netlink.LinkSetIP6AddrGenMode(tap, noAddress); err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EAFNOSUPPORT) {
		return injector{}, fmt.Errorf("keep %s without addresses: %w", req.Name(), err)
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		return injector{}, fmt.Errorf("bring %s up: %w", req.Name(), err)
	}
	index := tap.Attrs().Index
	if err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}); err != nil {
		return injector{}, fmt.Errorf("traffic control (clsact): %w", err)
	}
	redirect := &netlink.MirredAction{
		ActionAttrs:  netlink.ActionAttrs{Action: netlink.TC_ACT_STOLEN},
		MirredAction: netlink.TCA_INGRESS_REDIR,
		Ifindex:      onto.Attrs().Index,
	}
	if err := netlink.FilterAdd(&netlink.U32{ // with no selector it matches everything
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{redirect},
	}); err != nil {
		return injector{}, fmt.Errorf("traffic control (redirect to %s): %w", ifname, err)
	}
	return injector{fd: fd, mac: tap.Attrs().HardwareAddr}, nil
}

// from is the sender's address of the frames: a local one that nobody has.
var from = []byte{0x02, 0, 0, 0, 0, 1}

func (i injector) send(packet []byte) error {
	if len(packet) == 0 {
		return errors.New("inject: an empty packet")
	}
	kind := []byte{0x08, 0x00}
	if packet[0]>>4 == 6 {
		kind = []byte{0x86, 0xdd}
	}
	frame := make([]byte, 0, 14+len(packet))
	frame = append(append(append(append(frame, i.mac...), from...), kind...), packet...)
	if _, err := unix.Write(i.fd, frame); err != nil {
		return os.NewSyscallError("write", err)
	}
	return nil
}

func (i injector) close() error { return unix.Close(i.fd) }
