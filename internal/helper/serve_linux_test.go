package helper

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fairlead/internal/lab"
)

// A host that boots asks everybody for its file, and fetches it from the server
// that answers, whose answers come from another port (RFC 1350).
func TestAFileIsFetchedByABroadcastOfTFTP(t *testing.T) {
	g := newTown(t)
	g.addressed()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := bytes.Repeat([]byte("0123456789abcdef"), 100) // four blocks
	if err := os.WriteFile(filepath.Join(dir, "boot"), file, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := g.server.Command(t, lab.NeedTool(t, "in.tftpd"), "--foreground", "--listen", "--user", "nobody", "--address", server4+":69", "--secure", dir)
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, keep := range []string{"", " source keep"} {
		g.carry(g.h, "helper lan:default-set/udp to "+server4+keep)
		ask := []byte("\x00\x01boot\x00octet\x00")
		var c *net.UDPConn
		eventually(t, "the server answers", func() bool { // it may not listen yet
			c = shout(t, g.right, right4+":0", "255.255.255.255:69", string(ask))
			return arrives(c)
		})
		var got []byte
		for {
			block, from := hear(t, c)
			if len(block) < 4 || block[1] != 3 {
				t.Fatalf("%q", block)
			}
			if n := int(binary.BigEndian.Uint16([]byte(block[2:]))); n == len(got)/512+1 {
				got = append(got, block[4:]...)
			}
			if _, err := c.WriteToUDPAddrPort([]byte{0, 4, block[2], block[3]}, from); err != nil {
				t.Fatal(err)
			}
			if want := map[bool]string{true: lan1, false: server4}[keep == ""]; from.Addr().String() != want {
				t.Errorf("%q: a block comes from %s, want %s", keep, from, want)
			}
			if len(block) < 4+512 {
				break
			}
		}
		if !bytes.Equal(got, file) {
			t.Errorf("%q: %d bytes of %d arrived", keep, len(got), len(file))
		}
	}
}

// A magic packet goes from one network to the hosts of another, asleep or not.
func TestWakeOnLANReachesAnotherNetwork(t *testing.T) {
	g := newTown(t)
	g.addressed()
	magic := strings.Repeat("\xff", 6) + strings.Repeat("\x02\x00\x00\x00\x00\x07", 16)
	sleeper := newDesk(t, g.right, ":9", false)
	for i, keep := range []string{"", " source keep"} {
		g.carry(g.h, "helper lan0:9/udp to 192.168.2.255"+keep)
		shout(t, g.left, left4+":400"+strconv.Itoa(i), "255.255.255.255:9", magic)
		eventually(t, "it is awake", func() bool { return len(sleeper.list()) > i })
	}
	heard := sleeper.list()
	if !strings.HasPrefix(heard[0], magic+" from "+lan1+":") || heard[1] != magic+" from "+left4+":4001" {
		t.Errorf("%q", heard)
	}
}

func TestPacketsHaveTheRightChecksums(t *testing.T) {
	for _, payload := range []string{"", "odd", "even"} {
		b := appendUDP([]byte("before"), netip.MustParseAddrPort("192.0.2.1:67"), netip.MustParseAddrPort("198.51.100.2:68"), 7, []byte(payload))[6:]
		if len(b) != 28+len(payload) || b[8] != 7 || sum(0, b[:20]) != 0xffff {
			t.Errorf("%x", b)
		}
		if s := sum(sum(sum(0, b[12:20]), []byte{0, 17, b[24], b[25]}), b[20:]); s != 0xffff {
			t.Errorf("%q: the sum over the datagram is %#x", payload, s)
		}
		if !slices.Equal(b[28:], []byte(payload)) {
			t.Errorf("%q", b[28:])
		}
	}
}
