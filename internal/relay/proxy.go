package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"fairlead"
	"fairlead/internal/sys/sock"
	"fairlead/internal/wire/proxyproto"
)

// headerTime is how long a sender of a PROXY protocol header may take for it.
// The specification asks for three seconds at least.
const headerTime = 5 * time.Second

// An origin is who a conversation comes from and what they asked for: the
// socket's own ends, or what a sender that is believed says of them.
type origin struct {
	client, local netip.AddrPort // zero for unix sockets
	tlvs          []proxyproto.TLV
	spoken        []string // the protocol agreed with the client within TLS; nil for none

	source netip.Addr // for whom the descriptors are counted
	held   int32      // how many of them

	asked asked  // what they ask for, where a target depends on it
	head  []byte // what was read of them on that account; the target's first bytes
}

func originOf(c net.Conn) origin {
	client := sock.AddrPort(c.RemoteAddr())
	return origin{
		client: netip.AddrPortFrom(client.Addr().WithZone(""), client.Port()),
		local:  sock.AddrPort(c.LocalAddr()),
	}
}

// believed reports whether the forward wants a header from this sender. It is
// never guessed whether one is there: a client could then say that it is
// somebody else.
func (ru *rule) believed(sender netip.Addr) bool {
	for _, p := range ru.f.Policy.AcceptProxy {
		if p.Contains(sender) {
			return true
		}
	}
	return false
}

// readHeader reads a sender's header, and no byte of what follows it.
func readHeader(ctx context.Context, c net.Conn, o origin) (origin, error) {
	deadline := time.Now().Add(headerTime)
	c.SetReadDeadline(deadline)
	defer c.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var b []byte
	for {
		h, n, err := proxyproto.Parse(b)
		switch {
		case err == nil:
			if h.Network == "tcp" {
				o.client, o.local = h.Source, h.Destination
			}
			o.tlvs = h.TLVs
			return o, nil
		case !errors.Is(err, proxyproto.ErrShort):
			return o, err
		}
		// What has come is looked at by itself: the first bytes may show that
		// this is no header, and then nobody waits for more.
		b = slices.Grow(b, n-len(b))
		k, err := c.Read(b[len(b):n])
		if b = b[:len(b)+k]; k == 0 && err != nil {
			return o, err
		}
	}
}

// header is what the target is told before the first byte, nil for nothing.
func (o *origin) header(version int, network string) ([]byte, error) {
	h := proxyproto.Header{Network: network, Source: o.client, Destination: o.local, TLVs: o.tlvs}
	if !o.client.IsValid() || !o.local.IsValid() {
		h = proxyproto.Header{Local: true} // from a unix socket there is nothing to tell
	}
	switch version {
	case 1:
		return proxyproto.AppendV1(nil, &h), nil
	case 2:
		return proxyproto.AppendV2(nil, &h)
	}
	return nil, nil
}

// introduce tells a freshly dialed target who the client is, and after that
// the first bytes.
func (ru *rule) introduce(t net.Conn, o *origin, first []byte) error {
	b, err := o.header(ru.f.Policy.ProxyProtocol, "tcp")
	b = append(b, first...)
	if err != nil || len(b) == 0 {
		return err
	}
	t.SetWriteDeadline(time.Now().Add(headerTime))
	defer t.SetWriteDeadline(time.Time{})
	_, err = t.Write(b)
	return err
}

// badHeader is why a sender that has to introduce its clients did not.
func badHeader(o origin, err error) *fairlead.Problem {
	why := strings.TrimPrefix(err.Error(), "PROXY protocol: ")
	switch {
	case errors.Is(err, io.EOF):
		why = "the connection ended before"
	case errors.Is(err, os.ErrDeadlineExceeded):
		why = "it did not come within " + headerTime.String()
	}
	p := fairlead.Problemf(fairlead.CodeProxyHeader, "%s sent no valid PROXY protocol header: %s", o.client.Addr(), why)
	p.Err = err
	return p
}
