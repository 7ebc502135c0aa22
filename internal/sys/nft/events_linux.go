package nft

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// listen calls ready and then took for each message of a netlink group of
// nf_tables' until ctx ends, and lost where some did not fit into the socket.
func listen(ctx context.Context, group int, ready func(), took func(reply), lost func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netlink to nftables: %w", err)
	}
	f := os.NewFile(uintptr(fd), "nfnetlink")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind netlink to nftables: %w", err)
	}
	// A transaction of some ten thousand elements comes at once. Beyond the
	// sysctl's bound needs CAP_NET_ADMIN, which this group needs anyway.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBytes); err != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, eventBytes)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
		return fmt.Errorf("listen to nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()

	ready()
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("listen to nftables: %w", err)
	}
	buf := make([]byte, receiveMost)
	for {
		var n int
		var from unix.Sockaddr
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err == nil {
			err = failed
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			lost()
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("listen to nftables: %w", err)
		}
		if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 {
			continue
		}
		messages(buf[:n], func(h *unix.NlMsghdr, body []byte) bool {
			if r, ok := parseReply(h, body); ok {
				took(r)
			}
			return false
		})
	}
}

// eventBytes is the room for events that nobody has read yet.
const eventBytes = 8 << 20
