package talk

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"fairlead"
)

func TestBytesAreShort(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 1200: "1.2 kB", 9949: "9.9 kB", 9950: "10 kB",
		999_499: "999 kB", 999_500: "1.0 MB", 1_200_000: "1.2 MB", 40_000_000_000: "40 GB",
		math.MaxInt64: "9.2 EB", math.MinInt64: "-9.2 EB", -1200: "-1.2 kB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestDurationsHaveTwoUnitsAtMost(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                     "0 s",
		time.Microsecond:                      "under 0.1 ms",
		400 * time.Microsecond:                "0.4 ms",
		3 * time.Millisecond:                  "3 ms",
		40 * time.Millisecond:                 "40 ms",
		999*time.Millisecond + 999999:         "999 ms",
		1500 * time.Millisecond:               "1.5 s",
		3 * time.Second:                       "3 s",
		12*time.Second + 900*time.Millisecond: "12 s",
		2 * time.Minute:                       "2 min",
		250 * time.Second:                     "4 min 10 s",
		2*time.Hour + time.Second:             "2 h",
		2*time.Hour + 5*time.Minute:           "2 h 5 min",
		76*time.Hour + 59*time.Minute:         "3 d 4 h",
		72 * time.Hour:                        "3 d",
		-12 * time.Second:                     "-12 s",
		math.MinInt64:                         "-106751 d 23 h",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestNounsFollowTheirNumber(t *testing.T) {
	for _, test := range []struct {
		n          int
		noun, want string
	}{
		{0, "connection", "0 connections"}, {1, "connection", "1 connection"}, {3, "connection", "3 connections"},
		{2, "address", "2 addresses"}, {2, "entry", "2 entries"}, {2, "day", "2 days"}, {2, "y", "2 ys"},
	} {
		if got := Count(test.n, test.noun); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
	if got := Count(int64(2), "match"); got != "2 matches" {
		t.Error(got)
	}
}

func TestReachSaysWhoGetsThere(t *testing.T) {
	for want, at := range map[string]fairlead.Spot{
		"programs on this machine only":                        {},
		"programs on this machine that may open the socket":    {Unix: "/run/s"},
		"everybody who can reach this machine":                 {Any: true},
		"everybody who can reach this machine over IPv4":       {Addr: netip.IPv4Unspecified()},
		"everybody who can reach 192.0.2.7":                    {Addr: netip.MustParseAddr("192.0.2.7")},
		"everybody who can reach this machine on its WAN side": {Where: "wan"},
		"everybody who can reach this machine on its LAN side": {Where: "lan"},
		"everybody who can reach eth0":                         {Where: "eth0"},
	} {
		if got := Reach(&at); got != want {
			t.Errorf("Reach(%+v) = %q, want %q", at, got, want)
		}
	}
	for _, loop := range []string{"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"} {
		if got := Reach(&fairlead.Spot{Addr: netip.MustParseAddr(loop)}); got != "programs on this machine only" {
			t.Errorf("%s: %s", loop, got)
		}
	}
	if got := Reach(&fairlead.Spot{Addr: netip.IPv6Unspecified()}); got != "everybody who can reach this machine" {
		t.Error(got)
	}

	net := netip.MustParsePrefix
	f := &fairlead.Forward{At: fairlead.Spot{Any: true}, To: []fairlead.Target{
		{Host: "a", From: []netip.Prefix{net("203.0.113.0/24"), net("192.0.2.1/32")}},
		{Host: "b", From: []netip.Prefix{net("203.0.113.0/24")}}}}
	if got, want := ReachOf(f), "everybody who can reach this machine, from 203.0.113.0/24, 192.0.2.1 only"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	f.To = append(f.To, fairlead.Target{Host: "rest"})
	f.Policy.Deny = []netip.Prefix{net("10.0.0.0/8")}
	if got, want := ReachOf(f), "everybody who can reach this machine, but not from 10.0.0.0/8"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSummaryCountsByClass(t *testing.T) {
	got := Summary([]fairlead.State{fairlead.Passing, fairlead.Verified, fairlead.Broken, fairlead.Listening, fairlead.Disabled, fairlead.Partial})
	if want := "6 forwards, 3 ok, 1 broken, 1 partial, 1 disabled"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := Summary(nil); got != "0 forwards" {
		t.Error(got)
	}
}
