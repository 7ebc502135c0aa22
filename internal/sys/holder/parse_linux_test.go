package holder

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"
)

const id = "3f2a9c01b7de00112233445566778899aabbccddeeff00112233445566778899"

const tcpText = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000    26        0 1593 1 000000002534100b 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1600 1 000000002534100b 100 0 0 10 0
   2: 0A00000A:C350 0100000A:0050 01 00000000:00000000 02:00000000 00000000  1000        0 1700 2 000000002534100b 20 4 30 10 -1
   3: 0A00000A:C351 0100000A:0050 06 00000000:00000000 03:00000000 00000000     0        0 0 3 000000002534100b
`

const tcp6Text = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 21 1 0 100 0 0 10 0
   1: B80D0120000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22 1 0 100 0 0 10 0
   2: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 23 1 0 100 0 0 10 0
`

func littleEndian(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the texts are those of a little-endian machine")
	}
}

func TestInetTexts(t *testing.T) {
	littleEndian(t)
	for _, tt := range []struct {
		name, text string
		states     uint32
		head       bool
		want       string
	}{
		{"listeners", tcpText, 1 << listen, false, "127.0.0.1:8080 26 1593 false, 0.0.0.0:22 0 1600 false"},
		{"listeners are the head", tcpText, 1 << listen, true, "127.0.0.1:8080 26 1593 false, 0.0.0.0:22 0 1600 false"},
		{"others", tcpText, all &^ (1 << listen), false, "10.0.0.10:50000 1000 1700 true"},
		{"v6", tcp6Text, all, false, "[::]:8080 0 21 false, [2001:db8::1]:443 0 22 false, 127.0.0.1:80 0 23 false"},
		{"senseless rows", "title\n" +
			"0: 0100007F:1F90\n" +
			"0: 0100007:1F90 0:0 0A 0:0 0:0 0 0 0 7\n" +
			"0: 0100007F:1F9 0:0 0A 0:0 0:0 0 0 0 7\n" +
			"0: 0100007F:1F90 0:0 FFF 0:0 0:0 0 0 0 7\n" +
			"0: 0100007F:1F90 0:0 FF 0:0 0:0 0 0 0 7\n" +
			"0: 0100007F:1F90 0:0 0A 0:0 0:0 0 -1 0 7\n" +
			"0: 0100007F:1F90 0:0 0A 0:0 0:0 0 0 0 x\n\n", all, false, ""},
	} {
		var got []string
		err := parseInet(strings.NewReader(tt.text), tt.states, tt.head, func(s socket) {
			got = append(got, fmt.Sprint(netip.AddrPortFrom(s.local.addr, s.port), s.uid, s.inode, s.connected))
		})
		if err != nil || strings.Join(got, ", ") != tt.want {
			t.Errorf("%s: %v\ngot  %s\nwant %s", tt.name, err, strings.Join(got, ", "), tt.want)
		}
	}
}

func TestUnixText(t *testing.T) {
	const text = `Num       RefCount Protocol Flags    Type St Inode Path
00000000a3c73fbc: 00000003 00000000 00000000 0001 03  1589
00000000a3c73fbd: 00000002 00000000 00010000 0001 01  1590 /run/with space.sock
00000000a3c73fbe: 00000003 00000000 00000000 0001 03  1591 /run/with space.sock
00000000a3c73fbf: 00000002 00000000 00010000 0005 01 159200 @abstract@
00000000a3c73fc0: 00000003 00000000 00000000 0002 01  1593 /run/log
0: 1 2
`
	var got []string
	err := parseUnix(strings.NewReader(text), func(s socket) { got = append(got, fmt.Sprintf("%d %s %d", s.inode, s.path, s.uid)) })
	want := "1590 /run/with space.sock -1|159200 @abstract@ -1|1593 /run/log -1"
	if err != nil || strings.Join(got, "|") != want {
		t.Errorf("%v\ngot  %q\nwant %q", err, got, want)
	}
}

func TestControlGroups(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", " false"},
		{"0::/\n", " false"},
		{"0::/system.slice/nginx.service\n", "nginx.service false"},
		{"0::/system.slice/nginx.service/worker\n", "nginx.service false"},
		{"0::/system.slice/system-web.slice/web@1.service\n", "web@1.service false"},
		{"0::/system.slice/_cpu.service\n", "cpu.service false"},
		{"0::/init.scope\n", " false"},
		{"0::/user.slice/user-1000.slice/session-3.scope\n", " false"},
		{"0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", " false"},
		{"0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service\n", "web.service true"},
		{"0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-code-9.scope\n", "app-gnome-code-9.scope true"},
		{"4:memory:/system.slice/old.service\n1:name=systemd:/system.slice/new.service\n0::/\n", "new.service false"},
		{"0::/system.slice/\x1b[31mred.service\n", "?[31mred.service false"},

		{"0::/system.slice/docker-" + id + ".scope\n", " false docker 3f2a9c01b7de "},
		{"0::/system.slice/docker-" + id + ".scope/system.slice/nginx.service\n", " false docker 3f2a9c01b7de "},
		{"9:name=systemd:/docker/" + id + "\n0::/\n", " false docker 3f2a9c01b7de "},
		{"0::/machine.slice/libpod-" + id + ".scope/container\n", " false podman 3f2a9c01b7de "},
		{"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-" + id + ".scope\n", " false podman 3f2a9c01b7de "},
		{"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/crio-" + id + ".scope\n", " false cri-o 3f2a9c01b7de "},
		{"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope\n", " false containerd 3f2a9c01b7de "},
		{"0::/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:" + id + "\n", " false containerd 3f2a9c01b7de "},
		{"3:cpu:/kubepods/besteffort/pod1/" + id + "\n", " false kubernetes 3f2a9c01b7de "},
		{"0::/system.slice/nerdctl-" + id + ".scope\n", " false containerd 3f2a9c01b7de "},
		{"0::/lxc.payload.web/system.slice/nginx.service\n", " false lxc  web"},
		{"0::/system.slice/docker-3f2a.scope\n", "docker-3f2a.scope false"}, // somebody's own scope
		{"0::/elsewhere/" + id + "\n", " false"},
	} {
		unit, user, c := parseCgroup(tt.text)
		got := fmt.Sprintf("%s %v", unit, user)
		if c != (Container{}) {
			got += fmt.Sprintf(" %s %s %s", c.Runtime, c.ID, c.Name)
		}
		if got != tt.want {
			t.Errorf("%q\ngot  %q\nwant %q", tt.text, got, tt.want)
		}
	}
}

func TestProcessTexts(t *testing.T) {
	const fields = " S 1 812 812 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 77001 1000 0"
	for _, tt := range []struct {
		text, name string
		start      uint64
		ok         bool
	}{
		{"812 (nginx)" + fields, "nginx", 77001, true},
		{"812 (a) (b) c)" + fields, "a) (b) c", 77001, true},
		{"812 ()" + fields, "", 77001, true},
		{"812 (nginx) S 1 2 3", "", 0, false},
		{")(", "", 0, false},
		{"", "", 0, false},
	} {
		name, start, ok := parseStat([]byte(tt.text))
		if ok != tt.ok || ok && (name != tt.name || start != tt.start) {
			t.Errorf("%q: %q, %d, %v", tt.text, name, start, ok)
		}
	}
	for text, want := range map[string]int{
		"Name:\tx\nUid:\t0\t33\t0\t33\nGid:\t1\t1\t1\t1\n": 33,
		"Uid:\t0\n":                 -1,
		"Uid:\t0\tx\t0\t0\n":        -1,
		"Name:\tUid: 1 2 3 4\nx:\n": -1,
		"":                          -1,
	} {
		if got := parseUID([]byte(text)); got != want {
			t.Errorf("%q: uid %d, want %d", text, got, want)
		}
	}
	for text, want := range map[string]uint64{"socket:[4711]": 4711, "pipe:[4711]": 0, "socket:[x]": 0, "/dev/null": 0, "": 0} {
		if got, ok := parseLink(text); got != want || ok != (want != 0) {
			t.Errorf("%q: %d, %v", text, got, ok)
		}
	}
}

func TestCommandLinesOfPortHolders(t *testing.T) {
	for _, tt := range []struct{ name, args, want string }{
		{"docker-proxy", "/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 80", "container at 172.17.0.2:80"},
		{"docker-proxy", "/usr/bin/docker-proxy -proto tcp -host-ip :: -host-port 8080 -container-ip fd00::2 -container-port 80 -use-listen-fd", "container at [fd00::2]:80"},
		{"docker-proxy", "/usr/bin/docker-proxy -container-ip", "container"},
		{"docker-proxy", "/usr/bin/docker-proxy -container-ip 172.17.0.2 -container-port 99999", "container"},
		{"conmon", "/usr/bin/conmon --api-version 1 -c " + id + " -u " + id + " -r /usr/bin/crun -n web", "container web 3f2a9c01b7de"},
		{"conmon", "/usr/bin/conmon -c x -n web", "container"},
		{"nginx", "nginx -c " + id + " -n web", "container"},
		{"", "", "container"},
	} {
		c := parseArgs(tt.name, []byte(strings.ReplaceAll(tt.args, " ", "\x00")+"\x00"))
		if got := c.String(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.args, got, tt.want)
		}
	}
}

func diagMessage(family byte, addr string, state byte, attrs ...byte) []byte {
	b := make([]byte, diagMsgSize)
	b[0], b[1] = family, state
	binary.BigEndian.PutUint16(b[4:], 8080)
	copy(b[8:], netip.MustParseAddr(addr).AsSlice())
	binary.NativeEndian.PutUint32(b[64:], 33)
	binary.NativeEndian.PutUint32(b[68:], 4711)
	return append(b, attrs...)
}

func TestDiagMessages(t *testing.T) {
	littleEndian(t) // the attributes are
	for _, tt := range []struct {
		b    []byte
		want socket
	}{
		{diagMessage(2, "127.0.0.1", listen), socket{local: local("127.0.0.1", false)}},
		{diagMessage(2, "127.0.0.1", established), socket{local: local("127.0.0.1", false), connected: true}},
		{diagMessage(10, "::", listen, 5, 0, 8, 0, 1, 0, 0, 0, 5, 0, 11, 0, 1, 0, 0, 0), socket{local: local("::", true)}},
		{diagMessage(10, "::", listen, 5, 0, 11, 0, 0), socket{local: local("::", false)}},
		{diagMessage(10, "::", listen, 200, 0, 11, 0, 1), socket{local: local("::", false)}}, // cut off
		{diagMessage(10, "::ffff:10.0.0.1", closed), socket{local: local("10.0.0.1", false)}},
	} {
		tt.want.port, tt.want.uid, tt.want.inode = 8080, 33, 4711
		if got, ok := parseDiag(tt.b); !ok || got != tt.want {
			t.Errorf("got  %+v\nwant %+v", got, tt.want)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, diagMsgSize-1), make([]byte, diagMsgSize)} {
		if s, ok := parseDiag(b); ok {
			t.Errorf("%v is a socket: %+v", b, s)
		}
	}
}

func FuzzInet(f *testing.F) {
	f.Add([]byte(tcpText), uint32(1<<listen), true)
	f.Add([]byte(tcp6Text), all, false)
	f.Fuzz(func(t *testing.T, b []byte, states uint32, head bool) {
		parseInet(bytes.NewReader(b), states, head, func(s socket) {
			if !s.local.addr.IsValid() || s.local.addr.Is4In6() || s.uid < 0 {
				t.Errorf("%+v", s)
			}
		})
	})
}

func FuzzUnix(f *testing.F) {
	f.Add([]byte("0: 00000002 00000000 00010000 0001 01  1590 /run/x\n"))
	f.Add([]byte("0: 00000002 00000000 00000000 0002 01 1590 @x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		parseUnix(bytes.NewReader(b), func(s socket) {
			if s.path == "" {
				t.Errorf("%+v", s)
			}
		})
	})
}

func FuzzDiag(f *testing.F) {
	f.Add(diagMessage(2, "127.0.0.1", listen))
	f.Add(diagMessage(10, "::", listen, 5, 0, 11, 0, 1, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := parseDiag(b); ok && !s.local.addr.IsValid() {
			t.Errorf("%+v", s)
		}
	})
}

func FuzzProcess(f *testing.F) {
	f.Add("812 (nginx) S 1 812 812 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 77001")
	f.Add("Uid:\t0\t33\t0\t33\n")
	f.Add("0::/user.slice/user@1000.service/app.slice/web.service\n")
	f.Add("0::/system.slice/docker-" + id + ".scope\n")
	f.Add("conmon\x00-c\x00" + id + "\x00-n\x00web")
	f.Add("docker-proxy\x00-container-ip\x00::1%x\x00-container-port\x0080")
	f.Fuzz(func(t *testing.T, s string) {
		parseStat([]byte(s))
		parseUID([]byte(s))
		parseLink(s)
		unit, _, c := parseCgroup(s)
		d := parseArgs("conmon", []byte(s)).with(parseArgs("docker-proxy", []byte(s))).with(c)
		for _, text := range []string{unit, c.Name, d.Name, d.String(), printable(s)} {
			if !utf8.ValidString(text) || strings.ContainsAny(text, "\x1b\n\x00") {
				t.Errorf("unfit for a terminal: %q", text)
			}
		}
	})
}
