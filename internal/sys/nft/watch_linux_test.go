package nft

import (
	"context"
	"strconv"
	"testing"
	"time"

	"fairlead/internal/lab"
)

// watching tells of the changes in a host until the test ends.
func watching(t *testing.T, h *lab.Host) <-chan Notice {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	notices := make(chan Notice, 1000)
	ready, over := make(chan struct{}), make(chan error, 1)
	go func() {
		over <- h.Do(func() error {
			return Watch(ctx, func() { close(ready) }, func(n Notice) { notices <- n })
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-over:
		over <- nil
		t.Fatal("watch ended:", err)
	}
	return notices
}

// next is the next notice.
func next(t *testing.T, notices <-chan Notice) Notice {
	t.Helper()
	select {
	case n := <-notices:
		return n
	case <-time.After(10 * time.Second):
		t.Fatal("no notice of a change")
		return Notice{}
	}
}

// wantNotices takes one notice for each table, in any order.
func wantNotices(t *testing.T, notices <-chan Notice, program string, tables ...string) {
	t.Helper()
	left := map[string]bool{}
	for _, name := range tables {
		left[name] = true
	}
	for range tables {
		n := next(t, notices)
		at := n.Family.String() + " " + n.Table
		if !left[at] {
			t.Fatalf("a notice of %q, wanted of %v", at, left)
		}
		delete(left, at)
		if n.Name != program || n.PID == 0 || n.By == 0 || n.Lost {
			t.Errorf("notice %+v; want %s's, with its process and port", n, program)
		}
	}
	select {
	case n := <-notices:
		t.Errorf("one notice too many: %+v", n)
	default:
	}
}

func TestEachTransactionIsOneNoticePerTable(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	notices := watching(t, h)
	nftRun(t, h, `table inet a {
		set s { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }
		chain c { type filter hook input priority 0; ip saddr @s accept; }
	}
	table ip6 b { chain d { accept; }
	}`, "-f", "-")
	wantNotices(t, notices, "nft", "inet a", "ip6 b")
	nftRun(t, h, "", "delete", "element", "inet", "a", "s", "{ 192.0.2.1 }")
	wantNotices(t, notices, "nft", "inet a")
	nftRun(t, h, "", "add", "rule", "ip6", "b", "d", "drop")
	wantNotices(t, notices, "nft", "ip6 b")
	nftRun(t, h, "", "flush", "ruleset")
	wantNotices(t, notices, "nft", "inet a", "ip6 b")
	nftRun(t, h, "table inet a { chain c { }\n}\ntable inet b { }", "-f", "-")
	wantNotices(t, notices, "nft", "inet a", "inet b")
	nftRun(t, h, "", "delete", "table", "inet", "b")
	wantNotices(t, notices, "nft", "inet b")
	nftRun(t, h, "", "delete", "chain", "inet", "a", "c")
	wantNotices(t, notices, "nft", "inet a")
}

func TestChangesByIptablesAreNoticed(t *testing.T) {
	iptables := lab.NeedTool(t, "iptables-nft")
	h := lab.NewNet(t).Host("one")
	notices := watching(t, h)
	if out, err := h.Command(t, iptables, "-A", "FORWARD", "-j", "DROP").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	wantNotices(t, notices, "iptables-nft", "ip filter")
}

func TestWhatTheWatchMissesIsTold(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	held, ready, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	first := make(chan struct{}, 1)
	lost := make(chan struct{}, 1)
	go func() {
		over <- h.Do(func() error {
			return Watch(ctx, func() { close(ready) }, func(n Notice) {
				select {
				case first <- struct{}{}:
				default:
				}
				<-held
				if n.Lost {
					select {
					case lost <- struct{}{}:
					default:
					}
				}
			})
		})
	}()
	<-ready
	nftRun(t, h, "table inet a { set s { type ipv4_addr . inet_service; }\n}", "-f", "-")
	<-first
	elements := make([]byte, 0, 4<<20)
	elements = append(elements, "add element inet a s {"...)
	for i := range 60000 {
		elements = append(elements, "10."...)
		for _, n := range []int{i >> 16, i >> 8 & 0xff, i & 0xff} {
			elements = append(elements, strconv.Itoa(n)...)
			elements = append(elements, '.')
		}
		elements = append(elements[:len(elements)-1], " . 80,"...)
	}
	elements = append(elements, "}\n"...)
	for range 4 {
		nftRun(t, h, string(elements)+"flush set inet a s\n", "-f", "-")
	}
	close(held)
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		t.Error("a full socket was not told of")
	}
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
}
