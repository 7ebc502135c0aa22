package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fairlead/internal/lab"
)

// A service relays DHCP between the LAN and a server outside of it, and stands
// in status as what it did.
func TestAServiceRelaysDHCP(t *testing.T) {
	g := lab.NewGateway(t)
	udhcpc := lab.NeedTool(t, "udhcpc")
	g.Outside.Route("192.168.1.0/24", lab.WAN4, "eth0")
	server := g.Outside.Command(t, lab.NeedTool(t, "dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root",
		"--no-ping", "--dhcp-range=192.168.1.100,192.168.1.150,255.255.255.0", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--pid-file=")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	v := spec{host: g.Gateway}.up(t, "dhcp: helper lan:67/udp to "+lab.Outside4+" option-82\n")
	eventually(t, "the relay hears", func() bool { return v.forward("dhcp").State == "listening" })
	if f := v.forward("dhcp"); f.Carrier != "helper" || len(f.Bound) != 3 {
		t.Errorf("status: %+v", f)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = bound ] && echo \"got $ip\"\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := g.Beside.Command(t, udhcpc, "-i", "eth0", "-f", "-q", "-n", "-t", "10", "-T", "1", "-s", script).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "got 192.168.1.1") {
		t.Errorf("%v\n%s", err, out)
	}
	if f := v.forward("dhcp"); f.State != "passing" {
		t.Errorf("status: %+v", f)
	}
}

func TestWithoutTheRightARelayOfDHCPSaysSo(t *testing.T) {
	g := lab.NewGateway(t)
	p := spec{host: g.Gateway, before: []string{"nobody"}}.start(t, "helper", "lan0:67/udp", "to", lab.Outside4)
	p.ends(exitPermission)
	if n := p.stderr.count(`error\[FL-111\]: a relay of DHCP .* CAP_NET_RAW`); n != 1 || p.stderr.count(`error\[`) != 1 {
		t.Errorf("it says\n%s", p.stderr)
	}
	p = spec{host: g.Gateway, before: []string{"nobody"}}.start(t, "helper", "lan0:69/udp", "to", lab.Outside4)
	p.ends(exitPermission)
	if n := p.stderr.count(`error\[FL-110\]: port 69 on lan0 needs a privilege`); n != 1 || p.stderr.count(`error\[`) != 1 {
		t.Errorf("it says\n%s", p.stderr)
	}
}
