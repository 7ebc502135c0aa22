package nft

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"fairlead/internal/lab"
)

// opened is a connection to the host's nftables.
func opened(t testing.TB, h *lab.Host) *Conn {
	t.Helper()
	var c *Conn
	err := h.Do(func() (err error) {
		c, err = Open()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestWhatIsNotThereIsNil(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	c := opened(t, h)
	if table, err := c.Read(Inet, "none"); table != nil || err != nil {
		t.Errorf("a table that is not there: %v, %v", table, err)
	}
	if all, err := c.ReadAll(0); len(all) != 0 || err != nil {
		t.Errorf("no tables: %v, %v", all, err)
	}
	if list, err := c.Tables(); len(list) != 0 || err != nil {
		t.Errorf("no tables: %v, %v", list, err)
	}
	if _, err := c.ReadSet(Inet, "none", "none"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a set of no table: %v", err)
	}
	nftRun(t, h, "table inet t { }", "-f", "-")
	if _, err := c.ReadSet(Inet, "t", "none"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a set that is not there: %v", err)
	}
}

func TestSetsAreReadBack(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	want := everyForm()
	nftRun(t, h, want.Text(), "-f", "-")
	c := opened(t, h)
	got, err := c.Read(Inet, want.Name)
	if err != nil {
		t.Fatal(err)
	}
	compareSets(t, got, want)
	for i := range want.Sets {
		s, err := c.ReadSet(Inet, want.Name, want.Sets[i].Name)
		if err != nil {
			t.Fatal(err)
		}
		compareSets(t, &Table{Sets: []Set{*s}}, &Table{Sets: want.Sets[i : i+1]})
	}
}

func TestRulesThatNftLoadsAreReadAsTheyWereMeant(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	want := everyForm()
	nftRun(t, h, want.Text(), "-f", "-")
	got, err := opened(t, h).Read(Inet, want.Name)
	if err != nil {
		t.Fatal(err)
	}
	compareRules(t, got, want)
	if got.Family != want.Family || got.Name != want.Name || got.Owned {
		t.Errorf("read table %v %s, owned %v", got.Family, got.Name, got.Owned)
	}
}

// run runs a program in the host.
func run(t *testing.T, h *lab.Host, name string, args ...string) {
	t.Helper()
	if out, err := h.Command(t, lab.NeedTool(t, name), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// allWords are the rules of a host in words, by table and chain.
func allWords(t *testing.T, h *lab.Host) string {
	t.Helper()
	tables, err := opened(t, h).ReadAll(1000)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, table := range tables {
		for _, c := range table.Chains {
			fmt.Fprintf(&b, "%s %s %s", table.Family, table.Name, c.Name)
			if c.Hook != nil {
				fmt.Fprintf(&b, " (%s %s %d %s%s)", c.Hook.Type, c.Hook.Hook, c.Hook.Priority, pick(c.Hook.Drop, "drop", "accept"), strings.Join(append([]string{""}, c.Hook.Devices...), " "))
			}
			b.WriteString("\n")
			for i := range c.Rules {
				fmt.Fprintf(&b, "\t%s\n", c.Rules[i].Words())
			}
		}
	}
	return b.String()
}

func TestRulesOfIptablesAreReadInWords(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	for _, args := range []string{
		"-P FORWARD DROP",
		"-N DOCKER-USER",
		"-A FORWARD -j DOCKER-USER",
		"-A DOCKER-USER -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment answers -j ACCEPT",
		"-A FORWARD -i eth0 -o br+ ! -s 10.0.0.0/9 -d 192.168.1.1 -p tcp --dport 80:90 -j ACCEPT",
		"-A FORWARD -s 10.1.0.0/16 -p tcp -m mark --mark 0x1/0xff -j REJECT",
		"-A FORWARD -p tcp --dport 22 --syn -m limit --limit 3/min -j LOG --log-prefix ssh:",
		"-A FORWARD -p tcp -m multiport --dports 22,80,90:99 -j REJECT --reject-with tcp-reset",
		"-A FORWARD -m addrtype --dst-type LOCAL -j RETURN",
		"-A FORWARD -p udp ! --sport 53 -g DOCKER-USER",
		"-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT",
		"-A FORWARD -m conntrack ! --ctstate NEW -j ACCEPT",
		"-A FORWARD ! -i lo -m statistic --mode nth --every 2 --packet 0 -j ACCEPT",
		"-t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 10.0.0.1:8080",
		"-t nat -A PREROUTING -p tcp --dport 81 -j REDIRECT --to-ports 90",
		"-t nat -A POSTROUTING -o eth0 -j MASQUERADE",
		"-t nat -A POSTROUTING -o eth0 -j SNAT --to-source 192.0.2.1-192.0.2.5",
		"-t mangle -A PREROUTING -j MARK --set-mark 0x10",
	} {
		run(t, h, "iptables-nft", strings.Fields(args)...)
	}
	for _, args := range []string{
		"-A INPUT -s 2001:db8::/33 -m conntrack --ctstate INVALID -j DROP",
		"-A INPUT -p tcp --sport 1:5 --dport 7 -j REJECT",
		"-t nat -A PREROUTING -p udp --dport 5 -j DNAT --to-destination [2001:db8::1]:50-60",
	} {
		run(t, h, "ip6tables-nft", strings.Fields(args)...)
	}
	want := `ip filter FORWARD (filter forward 0 drop)
	counter packets 0 bytes 0 jump DOCKER-USER
	iifname "eth0" oifname "br*" ip saddr != 10.0.0.0/9 ip daddr 192.168.1.1 tcp dport 80-90 counter packets 0 bytes 0 accept
	meta l4proto tcp ip saddr 10.1.0.0/16 meta mark & 0x000000ff == 0x00000001 counter packets 0 bytes 0 reject with icmp port-unreachable
	tcp flags syn / fin,syn,rst,ack tcp dport 22 limit rate 3/minute burst 5 packets counter packets 0 bytes 0 log prefix "ssh:"
	meta l4proto tcp tcp dport { 22, 80, 90-99 } counter packets 0 bytes 0 reject with tcp reset
	fib daddr type local counter packets 0 bytes 0 return
	udp sport != 53 counter packets 0 bytes 0 goto DOCKER-USER
	ct status dnat counter packets 0 bytes 0 accept
	ct state ! new counter packets 0 bytes 0 accept
	iifname != "lo" xt match "statistic" counter packets 0 bytes 0 accept
ip filter DOCKER-USER
	ct state established,related counter packets 0 bytes 0 accept comment "answers"
ip nat PREROUTING (nat prerouting -100 accept)
	tcp dport 80 counter packets 0 bytes 0 dnat to 10.0.0.1:8080
	tcp dport 81 counter packets 0 bytes 0 redirect to :90
ip nat POSTROUTING (nat postrouting 100 accept)
	oifname "eth0" counter packets 0 bytes 0 masquerade
	oifname "eth0" counter packets 0 bytes 0 snat to 192.0.2.1-192.0.2.5
ip mangle PREROUTING (filter prerouting -150 accept)
	counter packets 0 bytes 0 meta mark set 0x00000010
ip6 filter INPUT (filter input 0 accept)
	ip6 saddr 2001:db8::/33 ct state invalid counter packets 0 bytes 0 drop
	tcp sport 1-5 tcp dport 7 counter packets 0 bytes 0 reject with icmpv6 port-unreachable
ip6 nat PREROUTING (nat prerouting -100 accept)
	udp dport 5 counter packets 0 bytes 0 dnat to [2001:db8::1]:50-60
`
	if diff := gocmp.Diff(want, allWords(t, h)); diff != "" {
		t.Errorf("rules (-wanted +read):\n%s", diff)
	}
}

func TestForeignFormsAreReadInWords(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	h.Bridge("br0")
	nftRun(t, h, `table inet t {
	set plain { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.1.5 }
	}
	map verdicts { type inet_service : verdict; elements = { 80 : jump leaf }
	}
	counter hits { }
	chain leaf { }
	chain c { type filter hook forward priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		ip saddr vmap { 10.0.0.0/8 : accept, 192.0.2.1 : jump leaf }
		ip saddr . tcp dport { 192.0.2.1 . 80, 192.0.2.2 . 81 } accept
		iifname { "eth0", "wan" } oifname "lan*" drop
		tcp dport vmap @verdicts
		tcp flags syn / fin,syn,rst,ack tcp option maxseg size set rt mtu
		ip dscp ef ip ttl 64 ip protocol != icmp
		meta mark & 0xff == 0x1 ct mark set meta mark
		meta mark set ct mark
		ct mark 0x5 meta skuid 1000
		meta length > 1400 ip6 nexthdr tcp
		ether saddr 00:11:22:33:44:55 meta protocol ip
		fib saddr . iif oif missing drop
		fib daddr . mark type local
		counter name "hits"
		quota over 1000 bytes drop
		limit rate 5 mbytes/second burst 1 mbytes
		limit rate 3/day accept
		meta pkttype broadcast
	}
	chain n { type nat hook postrouting priority srcnat;
		meta l4proto tcp snat ip to 192.0.2.1-192.0.2.9:1000-2000 random
		masquerade fully-random
		snat ip6 to 2001:db8::1
	}
	chain d { type nat hook prerouting priority dstnat;
		tcp dport 80 redirect to :8080
		dnat ip to 10.0.0.1-10.0.0.3
		tcp dport 81 dnat ip6 to [2001:db8::1]:80
		dnat ip to ip saddr map { 10.0.0.0/8 : 192.0.2.1, 11.0.0.1 : 192.0.2.2 }
		tcp dport { 1, 5-7 } dnat ip to symhash mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }
	}
}
table bridge b {
	chain f { type filter hook forward priority -200;
		meta protocol ip ip saddr 192.0.2.1 drop
		ether type arp accept
	}
}
table netdev n {
	chain i { type filter hook ingress device "br0" priority 0; ip saddr 192.0.2.1 drop; }
}
`, "-f", "-")
	want := `inet t leaf
inet t c (filter forward 0 drop)
	ct state vmap { invalid : drop, established : accept, related : accept }
	meta nfproto ipv4 ip saddr vmap { 10.0.0.0/8 : accept, 192.0.2.1 : jump leaf }
	meta nfproto ipv4 meta l4proto tcp ip saddr . th dport { 192.0.2.1 . 80, 192.0.2.2 . 81 } accept
	iifname { "eth0", "wan" } oifname "lan*" drop
	meta l4proto tcp th dport vmap @verdicts
	meta l4proto tcp tcp flags syn / fin,syn,rst,ack [exthdr]
	meta nfproto ipv4 @nh,8,8 & 0xfc == 184 ip ttl 64 ip protocol != icmp
	meta mark & 0x000000ff == 0x00000001 ct mark set meta mark
	meta mark set ct mark
	ct mark 0x00000005 meta skuid 1000
	meta length > 1400 meta nfproto ipv6 ip6 nexthdr tcp
	meta iiftype 1 ether saddr 00:11:22:33:44:55 meta protocol ip
	fib saddr . iif oif 0 drop
	fib daddr . mark type local
	counter name "hits"
	quota over 1000 bytes used 0 bytes drop
	limit rate 5242880 bytes/second burst 1048576 bytes
	limit rate 3/day burst 5 packets accept
	meta pkttype 1
inet t n (nat postrouting 100 accept)
	meta l4proto tcp snat ip to 192.0.2.1-192.0.2.9:1000-2000 random
	masquerade fully-random
	snat ip6 to 2001:db8::1
inet t d (nat prerouting -100 accept)
	tcp dport 80 redirect to :8080
	dnat ip to 10.0.0.1-10.0.0.3
	tcp dport 81 dnat ip6 to [2001:db8::1]:80
	dnat ip to ip saddr map { 10.0.0.0/8 : 192.0.2.1, 11.0.0.1 : 192.0.2.2 }
	tcp dport { 1, 5-7 } dnat ip to symhash mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }
bridge b f (filter forward -200 accept)
	meta protocol ip ip saddr 192.0.2.1 drop
	ether type arp accept
netdev n i (filter ingress 0 accept br0)
	meta protocol ip ip saddr 192.0.2.1 drop
`
	if diff := gocmp.Diff(want, allWords(t, h)); diff != "" {
		t.Errorf("rules (-wanted +read):\n%s", diff)
	}
}

func TestAllTablesAreReadWithBoundsAndOwners(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	var big strings.Builder
	big.WriteString("table ip big { set many { type ipv4_addr; elements = {")
	for i := range 3000 {
		fmt.Fprintf(&big, "10.0.%d.%d,", i>>8, i&0xff)
	}
	big.WriteString("} ; }\n set few { type ipv4_addr; elements = { 10.0.0.1 }; }\n}\n")
	nftRun(t, h, big.String(), "-f", "-")
	nftRun(t, h, "table arp a { chain c { type filter hook input priority 0; }\n}", "-f", "-")
	c := opened(t, h)

	if list, err := c.Tables(); err != nil || len(list) != 2 || list[0] != (Listed{IPv4, "big", 0}) || list[1] != (Listed{ARP, "a", 0}) {
		t.Errorf("tables: %v, %v", list, err)
	}
	all, err := c.ReadAll(100)
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	many, few := all[0].Sets[0], all[0].Sets[1]
	if !many.Partial || len(many.Elements) != 0 || few.Partial || len(few.Elements) != 1 {
		t.Errorf("of many %d elements, partial %v; of few %d, partial %v", len(many.Elements), many.Partial, len(few.Elements), few.Partial)
	}
	if hook := all[1].Chains[0].Hook; hook == nil || hook.Hook != "input" {
		t.Errorf("the hook of arp: %+v", hook)
	}
	if all, err = c.ReadAll(0); err != nil || len(all[0].Sets[0].Elements) != 3000 || all[0].Sets[0].Partial {
		t.Errorf("without a bound: %v", err)
	}
}

func TestATableIsReadWholeWhileItChanges(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	table := func(n int) string {
		var b strings.Builder
		fmt.Fprintf(&b, "table inet t\ndelete table inet t\ntable inet t {\n set s { type ipv4_addr; elements = {")
		for i := range 2000 {
			fmt.Fprintf(&b, "10.%d.%d.%d,", n, i>>8, i&0xff)
		}
		fmt.Fprintf(&b, "}\n }\n chain c {\n")
		for range 50 {
			fmt.Fprintf(&b, "ip saddr { 10.%d.0.1, 10.%d.0.2 } meta mark %d\n", n, n, n)
		}
		fmt.Fprintf(&b, "}\n}\n")
		return b.String()
	}
	nftRun(t, h, table(0), "-f", "-")
	stop, over := make(chan struct{}), make(chan error, 1)
	nft := lab.NeedTool(t, "nft")
	go func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				over <- nil
				return
			default:
			}
			cmd := h.Command(t, nft, "-f", "-")
			cmd.Stdin = strings.NewReader(table(n % 200))
			if out, err := cmd.CombinedOutput(); err != nil {
				over <- fmt.Errorf("%w: %s", err, out)
				return
			}
		}
	}()
	c := opened(t, h)
	for range 30 {
		got, err := c.Read(Inet, "t")
		if errors.Is(err, errInterrupted) {
			continue // it changed too often
		}
		if err != nil || got == nil || len(got.Sets) != 1 || len(got.Chains) != 1 {
			t.Fatalf("read %v, %v", got, err)
		}
		if rules, elements := len(got.Chains[0].Rules), len(got.Sets[0].Elements); rules != 50 || elements != 2000 {
			t.Fatalf("read %d rules of 50 and %d elements of 2000", rules, elements)
		}
		n := got.Sets[0].Elements[0].Key[0].First[1]
		for _, r := range got.Chains[0].Rules {
			values, ok := r.Exprs[0].(Is)
			if !ok || len(values.Values) != 2 || values.Values[0].First[1] != n {
				t.Fatalf("a rule of version %v in a table of version %d", r.Words(), n)
			}
		}
	}
	close(stop)
	if err := <-over; err != nil {
		t.Error(err)
	}
}

func TestWithoutTheRightNothingIsRead(t *testing.T) {
	lab.NeedRoot(t) // without it there may be no netfilter to be refused by
	over := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		over <- func() error {
			head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var caps [2]unix.CapUserData
			if err := unix.Capget(&head, &caps[0]); err != nil {
				return err
			}
			caps[0].Effective &^= 1 << unix.CAP_NET_ADMIN
			if err := unix.Capset(&head, &caps[0]); err != nil {
				return err
			}
			c, err := Open()
			if err != nil {
				return err
			}
			defer c.Close()
			_, all := c.ReadAll(0)
			_, tables := c.Tables()
			_, one := c.Read(Inet, "t")
			for _, err := range []error{all, tables, one} {
				if !errors.Is(err, os.ErrPermission) {
					return fmt.Errorf("without CAP_NET_ADMIN: %v", err)
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			for _, err := range []error{Watch(ctx, func() {}, func(Notice) {}), Trace(ctx, func() {}, func(TraceEvent) {})} {
				if !errors.Is(err, os.ErrPermission) {
					return fmt.Errorf("listening without CAP_NET_ADMIN: %v", err)
				}
			}
			return nil
		}()
	}()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

func TestCountsAreOfTheElementsAskedFor(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	c := opened(t, h)
	key := func(port uint16) []Range { return []Range{One(Value("\xc0\x00\x02\x01")), One(Port(port))} }
	table := &Table{Family: Inet, Name: "counts", Sets: []Set{
		{Name: "acct", Key: []Type{IPv4Addr, InetService}, Counted: true, Elements: []Element{
			{Key: key(80), Count: Count{Packets: 3, Bytes: 180}}, {Key: key(443), Count: Count{Packets: 5, Bytes: 300}}, {Key: key(53)},
		}},
		{Name: "wide", Key: []Type{InetService}, Interval: true, Counted: true},
	}}
	if err := c.Replace(table); err != nil {
		t.Fatal(err)
	}
	got, err := c.Counts(Inet, "counts", &table.Sets[0], []Element{{Key: key(443)}, {Key: key(9)}, {Key: key(80)}, {Key: key(53)}})
	if want := []Count{{5, 300}, {}, {3, 180}, {}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("counted is %v, %v, not %v", got, err, want)
	}
	if _, err := c.Counts(Inet, "counts", &table.Sets[1], []Element{{Key: []Range{One(Port(80))}}}); err == nil {
		t.Error("elements of a set of ranges were told apart")
	}
}
