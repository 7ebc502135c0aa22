package main

import (
	"context"
	"slices"
	"testing"
	"time"

	"fairlead/internal/lab"
)

// A file makes a machine a LAN's gateway; what the relay listens at is reached
// through the guard, and nothing else is.
func TestAServiceSharesAndGuards(t *testing.T) {
	g := lab.NewGateway(t)
	g.Outside.Route("2001:db8:2::/64", lab.WAN6, "eth0")
	echo := func(h *lab.Host, at string) { lab.Serve(t, lab.At{Host: h, Address: at}, lab.Echo) }
	echo(g.Inside, "["+lab.Inside6+"]:7")
	echo(g.Outside, lab.Outside4+":7")
	reaches := func(from *lab.Host, at string, within time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		c, err := from.DialContext(ctx, "tcp", at)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(within))
		return exchange(c) == nil
	}
	const short = 300 * time.Millisecond
	v := spec{host: g.Gateway}.up(t, `
masq: share lan to wan
web:  forward :8080 to `+lab.Outside4+`:7
hole: open wan:7 to [`+lab.Inside6+`] for 1h
`)
	eventually(t, "the relay's port is reached through the guard", func() bool { return reaches(g.Outside, lab.WAN4+":8080", short) })
	if !reaches(g.Inside, lab.Outside4+":7", patience) {
		t.Error("the LAN does not reach the outside")
	}
	if !reaches(g.Outside, "["+lab.Inside6+"]:7", patience) {
		t.Error("the pinhole lets nobody in")
	}
	masq := v.forward("masq")
	if want := []string{"lan0 goes out by wan0 as " + lab.WAN4}; !slices.Equal(masq.Bound, want) || masq.Carrier != "kernel" {
		t.Errorf("status of the share: %+v, want bound %q", masq, want)
	}

	// A line that goes down takes its default route with it, and not the guard.
	g.Gateway.Command(t, "ip", "route", "del", "default").Run()
	g.Gateway.Command(t, "ip", "-6", "route", "del", "default").Run()
	g.Gateway.Route("2001:db8:9::/64", lab.Outside6, "wan0") // whoever is outside has a way to be answered
	write(t, v.conf, "masq: share lan to wan\nweb:  forward :8080 to "+lab.Outside4+":7\n")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := v.client.Reload(ctx, false); err != nil {
		t.Fatal(err)
	}
	if reaches(g.Outside, "["+lab.Inside6+"]:7", short) {
		t.Error("without a default route, and without its pinhole, the guard lets in who comes from outside")
	}
}

func TestWhatLedOutsideOnceIsNotTakenForTheLAN(t *testing.T) {
	var g guess
	every := func(string) bool { return true }
	for _, step := range []struct {
		wan, lan         []string
		gone             string
		wantWAN, wantLAN []string
	}{
		{[]string{"eth0"}, []string{"br0"}, "", []string{"eth0"}, []string{"br0"}},
		{nil, []string{"eth0", "br0"}, "", []string{"eth0"}, []string{"br0"}}, // the line is down
		{[]string{"wwan0"}, []string{"eth0", "br0"}, "", []string{"wwan0", "eth0"}, []string{"br0"}},
		{[]string{"eth0"}, []string{"br0", "br1"}, "wwan0", []string{"eth0"}, []string{"br0", "br1"}},
	} {
		exists := every
		if step.gone != "" {
			exists = func(name string) bool { return name != step.gone }
		}
		wan, lan := g.settle(slices.Clone(step.wan), slices.Clone(step.lan), exists)
		if !slices.Equal(wan, step.wantWAN) || !slices.Equal(lan, step.wantLAN) {
			t.Errorf("wan %v, lan %v: taken for %v and %v, want %v and %v", step.wan, step.lan, wan, lan, step.wantWAN, step.wantLAN)
		}
	}
}
