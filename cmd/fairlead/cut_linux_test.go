package main

import (
	"encoding/json"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/lab"
)

// TestConnectionsOfTheKernelAreListedKilledAndCut has no connection of the
// kernel's end but by the word for it.
func TestConnectionsOfTheKernelAreListedKilledAndCut(t *testing.T) {
	lab.NeedTool(t, "nft")
	g := lab.NewGateway(t)
	for _, port := range []string{"80", "81"} {
		lab.Serve(t, lab.At{Host: g.Inside, Address: lab.Inside4 + ":" + port}, lab.Echo)
	}
	v := spec{host: g.Gateway}.up(t, "web: nat wan0:8080 to "+lab.Inside4+":80\nother: nat wan0:8081 to "+lab.Inside4+":81\n")
	connect := func(port string) net.Conn {
		c, err := g.Outside.DialContext(t.Context(), "tcp", lab.WAN4+":"+port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := exchange(c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	run := func(args ...string) []byte {
		p := spec{host: g.Gateway}.start(t, append(args, "--socket", v.socket, "--config", v.conf)...)
		p.ends(exitOK)
		return []byte(p.stdout.String())
	}
	first, second, other := connect("8080"), connect("8080"), connect("8081")

	var list control.Conns
	if err := json.Unmarshal(run("conns", "--json"), &list); err != nil || len(list.Connections) != 3 {
		t.Fatalf("three connections are listed as %+v (%v)", list.Connections, err)
	}
	var id string
	for _, c := range list.Connections {
		if c.Client == first.LocalAddr().String() {
			id = c.ID
			if c.Forward != "web" || c.Target != lab.Inside4+":80" || c.Local != lab.WAN4+":8080" || c.Age != -1 || c.BytesIn != -1 {
				t.Errorf("listed as %+v", c)
			}
		}
	}
	run("kill", id)
	readsReset(t, first)
	for _, c := range []net.Conn{second, other} {
		if err := exchange(c); err != nil {
			t.Errorf("a connection that was not meant: %v", err)
		}
	}

	third := connect("8080")
	run("rm", "web")
	if err := exchange(third); err != nil {
		t.Errorf("a connection does not outlive its forward: %v", err)
	}
	run("add", "nat", "wan0:8082", "to", lab.Inside4+":80", "--name", "web")
	fourth := connect("8082")
	var doc changeDocument
	if err := json.Unmarshal(run("rm", "web", "--cut", "--json"), &doc); err != nil || doc.Cut == nil || *doc.Cut != 3 {
		t.Errorf("rm --cut says %+v (%v), want that three were cut", doc, err)
	}
	for _, c := range []net.Conn{second, third, fourth} {
		readsReset(t, c)
	}
	if err := exchange(other); err != nil {
		t.Errorf("a connection that was not meant: %v", err)
	}
}

func readsReset(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want a reset", err)
	}
}
