package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"fairlead"
	"fairlead/internal/lab"
)

// manyForwards leads n ports to as many targets.
func manyForwards(n int) []*fairlead.Forward {
	list := make([]*fairlead.Forward, n)
	for i := range list {
		at := fairlead.Spot{Where: "wan", Net: fairlead.TCP, Ports: fairlead.PortList{{First: uint16(i + 1024), Last: uint16(i + 1024)}}}
		host := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		list[i] = &fairlead.Forward{
			Name: fmt.Sprint("n", i), Kind: fairlead.KindNAT, Owner: fairlead.Owner{Kind: fairlead.OwnerFile}, At: at,
			To: []fairlead.Target{{Host: host.String(), Ports: fairlead.PortList{{First: 80, Last: 80}}}},
		}
	}
	return list
}

func benchmarkKernel(b *testing.B) *Kernel {
	g := lab.NewGateway(b)
	g.Gateway.Route("10.1.0.0/16", lab.Inside4, "lan0")
	k := New(Config{Table: "fairlead", In: g.Gateway.Do, Sides: func() (wan, lan []string, err error) {
		return []string{"wan0"}, []string{"lan0"}, nil
	}})
	b.Cleanup(k.Close)
	return k
}

// BenchmarkApply is the whole table at once.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			k := benchmarkKernel(b)
			want := manyForwards(n)
			for b.Loop() {
				k.Apply(context.Background(), want)
				b.StopTimer()
				k.Apply(context.Background(), nil)
				b.StartTimer()
			}
		})
	}
}

// BenchmarkChangeOne is one forward of many that leads elsewhere.
func BenchmarkChangeOne(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			k := benchmarkKernel(b)
			want := manyForwards(n)
			k.Apply(context.Background(), want)
			for i := 0; b.Loop(); i++ {
				changed := append([]*fairlead.Forward(nil), want...)
				f := *want[n/2]
				f.To = []fairlead.Target{{Host: "192.168.1.20", Ports: fairlead.PortList{{First: uint16(i%60000 + 1), Last: uint16(i%60000 + 1)}}}}
				changed[n/2] = &f
				k.Apply(context.Background(), changed)
			}
		})
	}
}
