package kernel

import (
	"golang.org/x/sys/unix"

	"fairlead/internal/wire/packet"
)

// send sends the datagram with its host's address as the source, as it would
// have come from there: connection tracking knows it, and translates it.
func (d keepalive) send() error {
	head := packet.Packet{Proto: packet.UDP, Src: d.from, Dst: d.to}
	b, err := head.Append(nil, []byte(keepData))
	if err != nil {
		return err
	}
	fd, err := rawSocket(d.to.Addr().Is6())
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return sendRaw(fd, d.from.Addr(), d.to.Addr(), b)
}
