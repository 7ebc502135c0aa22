package packetfilter

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/sys/netmon"
)

// A transcript stands for pfctl and ipfw, which the systems that we test on do
// not have: it notes what they would be told and answers as their manual pages
// say they do.
type transcript struct {
	told    []string // "pfctl -q -a … <<< rules"
	answers map[string]string
	fail    string // what a command that begins so answers with an error
}

func (x *transcript) run(_ context.Context, input, program string, args ...string) (string, error) {
	command := program + " " + strings.Join(args, " ")
	if x.fail != "" && strings.HasPrefix(command, x.fail) {
		return "", errors.New("stdin:1: syntax error")
	}
	if input != "" || strings.Contains(command, " -f ") {
		command += " <<< " + input
	}
	x.told = append(x.told, command)
	for begin, answer := range x.answers {
		if strings.HasPrefix(command, begin) {
			return answer, nil
		}
	}
	return "", nil
}

// loads are the commands that change something since the last look.
func (x *transcript) loads() (list []string) {
	list = slices.DeleteFunc(x.told, func(s string) bool { return !strings.Contains(s, "<<<") })
	x.told = nil
	return list
}

func pfAnswers() map[string]string {
	return map[string]string{
		"pfctl -s info":  "Status: Enabled for 3 days 01:02:03           Debug: Urgent\n",
		"pfctl -s nat":   "nat-anchor \"fairlead/*\" all\nrdr-anchor \"fairlead/*\" all\n",
		"pfctl -s rules": "block drop in all\nanchor \"fairlead/*\" all\n",
	}
}

func testCarrier(t *testing.T, d Dialect, x *transcript) *Carrier {
	t.Helper()
	w := testWorld()
	c := New(Config{
		Dialect: d, Name: Service, Run: x.run,
		Sides:      func() (wan, lan []string, err error) { return w.WAN, w.LAN, nil },
		Interfaces: func() ([]netmon.Interface, error) { return w.Interfaces, nil },
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			if addrs := w.Resolved[host]; addrs != nil {
				return addrs, nil
			}
			return nil, errors.New("no such name")
		},
	})
	t.Cleanup(c.Close)
	return c
}

func forwards(t *testing.T, lines ...string) (list []*fairlead.Forward) {
	t.Helper()
	file, problems := config.Parse("test", []byte(strings.Join(lines, "\n")+"\n"))
	if len(problems) > 0 {
		t.Fatal(problems[0])
	}
	return file.Forwards
}

// TestPFIsLoadedOnceAndLeft loads an anchor in one command, again only when the
// rules differ, counts by label, and leaves nothing.
func TestPFIsLoadedOnceAndLeft(t *testing.T) {
	x := &transcript{answers: pfAnswers()}
	c := testCarrier(t, PF, x)
	want := forwards(t, "web: nat wan:80 to 192.168.1.10:8080", "few: nat wan:81 to 192.168.1.10 max-conns 5")
	list := c.Apply(t.Context(), want)
	if list[0].State != fairlead.Listening || list[0].By != "kernel" || list[1].State != fairlead.Broken || list[1].Problem.Code != fairlead.CodeNotExpressed {
		t.Fatalf("%+v", list)
	}
	plan := Compile(PF, want, testWorld())
	if loads := x.loads(); len(loads) != 1 || loads[0] != "pfctl -q -a fairlead/service -f - <<< "+plan.Rules {
		t.Fatalf("loaded %q", loads)
	}
	c.Apply(t.Context(), want)
	if loads := x.loads(); len(loads) != 0 {
		t.Errorf("loaded again: %q", loads)
	}

	x.answers["pfctl -q -a fairlead/service -s labels"] = "web 40 10 900 4 300 6 600 2\nweb 40 1 90 1 30 0 60 1\nother 1 1 1 1 1 1 1 1\n"
	for range 2 {
		s := c.Report()[0]
		if m := s.Meter; m.Flows.Load() != 3 || m.In.Load() != 330 || m.Out.Load() != 660 || s.State != fairlead.Passing {
			t.Errorf("counted %d flows, %d in, %d out, %s", m.Flows.Load(), m.In.Load(), m.Out.Load(), s.State)
		}
	}

	x.loads()
	c.Apply(t.Context(), forwards(t, "web: nat wan:80 to 192.168.1.10:8080", "two: nat wan:82 to 192.168.1.10"))
	if loads := x.loads(); len(loads) != 1 {
		t.Errorf("changed by %q", loads)
	}
	x.answers["pfctl -q -a fairlead/service -s labels"] = "web 1 1 10 1 5 0 5 1\n"
	if m := c.Report()[0].Meter; m.In.Load() != 335 || m.Out.Load() != 665 {
		t.Errorf("a new anchor counts from the beginning: %d in, %d out", m.In.Load(), m.Out.Load())
	}
	x.loads()
	if err := c.Leave(); err != nil {
		t.Fatal(err)
	}
	if loads := x.loads(); len(loads) != 1 || loads[0] != "pfctl -q -a fairlead/service -f - <<< " {
		t.Errorf("left by %q", loads)
	}
}

// TestPFThatCannotHoldIsSaid loads nothing where pf is off or has no anchor for
// us, and says what to do.
func TestPFThatCannotHoldIsSaid(t *testing.T) {
	want := forwards(t, "web: nat wan:80 to 192.168.1.10:8080")
	for _, c := range []struct {
		d             Dialect
		command, says string
		code          fairlead.Code
	}{
		{PF, "pfctl -s info", "Status: Disabled", fairlead.CodeNoPacketFilter},
		{PF, "pfctl -s nat", "rdr-anchor \"fairlead/*\" all\n", fairlead.CodeNoAnchor},
		{PF, "pfctl -s rules", "pass all\n", fairlead.CodeNoAnchor},
		{OpenBSDPF, "pfctl -s rules", "anchor \"other/*\" all\n", fairlead.CodeNoAnchor},
	} {
		x := &transcript{answers: pfAnswers()}
		x.answers[c.command] = c.says
		s := testCarrier(t, c.d, x).Apply(t.Context(), want)[0]
		if s.State != fairlead.Broken || s.Problem == nil || s.Problem.Code != c.code || len(s.Problem.Fixes) == 0 {
			t.Errorf("%s %s: %+v", c.command, c.says, s)
		}
		if loads := x.loads(); len(loads) > 0 {
			t.Errorf("%s: loaded %q", c.command, loads)
		}
	}
	x := &transcript{answers: pfAnswers(), fail: "pfctl -q -a"}
	if s := testCarrier(t, PF, x).Apply(t.Context(), want)[0]; s.State != fairlead.Broken || s.Problem.Code != fairlead.CodeFilterRefused || !strings.Contains(s.Problem.What, "syntax error") {
		t.Errorf("refused: %+v", s)
	}
}

// TestIPFWIsSwapped makes rules ready in the set that is switched off; until they
// are swapped, translations lead what either set has.
func TestIPFWIsSwapped(t *testing.T) {
	x := &transcript{answers: map[string]string{"ipfw -q -a set 24 list": "01000 4 300 nat 24001 tcp from any to 203.0.113.1 80 in recv em0 // web\n" +
		"01000 6 600 nat 24001 tcp from 192.168.1.10 8080 to any out xmit em0 // web\n"}}
	c := testCarrier(t, IPFW, x)
	s := c.Apply(t.Context(), forwards(t, "web: nat wan:80 to 192.168.1.10:8080"))[0]
	if s.Problem == nil || s.Problem.Code != fairlead.CodePartOfClients || !s.Problem.Warning {
		t.Fatalf("%+v", s)
	}
	if m := c.Report()[0].Meter; m.In.Load() != 300 || m.Out.Load() != 600 {
		t.Errorf("counted %d in, %d out", m.In.Load(), m.Out.Load())
	}
	x.loads()
	c.Apply(t.Context(), forwards(t, "two: nat wan:82 to 192.168.1.11"))
	loads := x.loads()
	want := []string{`ipfw -q /dev/stdin <<< delete set 25
set disable 25
nat 24001 config if em0 same_ports redirect_port tcp 192.168.1.11:82 203.0.113.1:82 redirect_port tcp 192.168.1.10:8080 203.0.113.1:80
add 1000 set 25 nat 24001 tcp from any to 203.0.113.1 dst-port 82 in recv em0 // two
add 1000 set 25 nat 24001 tcp from 192.168.1.11 82 to any out xmit em0 // two
set enable 24
set swap 24 25
`, `ipfw -q /dev/stdin <<< delete set 25
nat 24001 config if em0 same_ports redirect_port tcp 192.168.1.11:82 203.0.113.1:82
`}
	if !slices.Equal(loads, want) {
		t.Errorf("changed by\n%s", strings.Join(loads, "\n"))
	}
	if err := c.Leave(); err != nil {
		t.Fatal(err)
	}
	if loads := x.loads(); len(loads) != 2 || !strings.Contains(loads[1], "nat 24001 delete") || strings.Contains(loads[0], "add") {
		t.Errorf("left by %q", loads)
	}
}

// TestTheServiceReplacesWhatAKilledOneLeft takes rules away that nobody wants.
func TestTheServiceReplacesWhatAKilledOneLeft(t *testing.T) {
	x := &transcript{answers: pfAnswers()}
	testCarrier(t, OpenBSDPF, x).Apply(t.Context(), nil)
	if loads := x.loads(); len(loads) != 1 || loads[0] != "pfctl -q -a fairlead/service -f - <<< " {
		t.Errorf("loaded %q", loads)
	}
}

func FuzzCounts(f *testing.F) {
	f.Add("web 40 10 900 4 300 6 600 2\n01000 4 300 nat 24001 tcp from any to any in // web\n")
	f.Fuzz(func(t *testing.T, out string) {
		for _, all := range []map[string]count{parseLabels(out), parseRules(out)} {
			for label := range all {
				if label == "" {
					t.Error("a label without a letter")
				}
			}
		}
	})
}
