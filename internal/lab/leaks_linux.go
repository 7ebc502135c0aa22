package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// holdings are this process's descriptors and children in words, by a key that
// tells them apart and does not change in their life.
func holdings() map[string]string {
	have := map[string]string{}
	const dir = "/proc/self/fd"
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil || strings.HasSuffix(target, "/fd") { // closed since, or the listing itself
			continue
		}
		words := "descriptor " + entry.Name() + " " + target
		if strings.HasPrefix(target, "socket:") {
			words += socketWords(entry.Name())
		}
		have[entry.Name()+" "+target] = words
	}
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, pid := range strings.Fields(string(text)) {
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			have[pid] = "process " + pid + " " + strings.TrimSpace(string(name))
		}
	}
	return have
}

// socketWords describes a socket of this process by kind and addresses.
func socketWords(number string) string {
	var fd int
	fmt.Sscan(number, &fd)
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return ""
	}
	words := map[int]string{unix.SOCK_STREAM: " stream", unix.SOCK_DGRAM: " datagram"}[kind]
	if local, err := unix.Getsockname(fd); err == nil {
		words += " at " + sockaddrWords(local)
	}
	if peer, err := unix.Getpeername(fd); err == nil {
		words += " to " + sockaddrWords(peer)
	}
	return words
}

func sockaddrWords(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return fmt.Sprintf("%d.%d.%d.%d:%d", sa.Addr[0], sa.Addr[1], sa.Addr[2], sa.Addr[3], sa.Port)
	case *unix.SockaddrInet6:
		return fmt.Sprintf("[%x]:%d", sa.Addr, sa.Port)
	case *unix.SockaddrUnix:
		return fmt.Sprintf("%q", sa.Name)
	}
	return fmt.Sprintf("%T", sa)
}
