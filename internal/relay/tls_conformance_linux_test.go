package relay_test

import (
	"context"
	"testing"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
)

// tunnelled carries each forward through two relays with TLS between them, so
// that either leg of a connection is plain once and sealed once.
type tunnelled struct {
	*relay.Relay // toward clients; its targets are spoken TLS with
	inner        *relay.Relay
	t            testing.TB
	ca           *lab.Authority
	cert, key    string
	entries      map[string]fairlead.PortList // of the inner relay, by forward
}

func newTunnelled(t testing.TB) *tunnelled {
	c := &tunnelled{Relay: newRelay(t, relay.Config{}), inner: newRelay(t, relay.Config{}), t: t,
		ca: lab.NewAuthority(t, "ca"), entries: map[string]fairlead.PortList{}}
	c.cert, c.key = c.ca.Issue(t, "inner", lab.Leaf{Names: []string{"127.0.0.1"}})
	return c
}

func (c *tunnelled) Apply(ctx context.Context, want []*fairlead.Forward) []fairlead.Status {
	var outer, inner []*fairlead.Forward
	for _, f := range want {
		n := max(f.At.Ports.Len(), 1)
		if c.entries[f.Name].Len() != n {
			at := lab.FreePorts(c.t, nil, parseAddr("127.0.0.1"), n)
			c.entries[f.Name] = fairlead.PortList{{First: at.Port(), Last: at.Port() + uint16(n-1)}}
		}
		in, out := *f, *f
		in.At = fairlead.Spot{Addr: parseAddr("127.0.0.1"), Ports: c.entries[f.Name], Net: fairlead.TCP}
		in.Policy.TLS.Certs = []fairlead.Certificate{{Cert: c.cert, Key: c.key}}
		out.To = []fairlead.Target{{Host: "127.0.0.1", Ports: c.entries[f.Name]}}
		out.Policy.TLS.Target, out.Policy.TLS.TargetCA = fairlead.TargetVerify, c.ca.File
		inner, outer = append(inner, &in), append(outer, &out)
	}
	c.inner.Apply(ctx, inner)
	return c.Relay.Apply(ctx, outer)
}

func (c *tunnelled) Close() {
	c.Relay.Close()
	c.inner.Close()
}

func TestConformanceOverTLS(t *testing.T) {
	s := lab.Carrier(func(t *testing.T) fairlead.Carrier { return newTunnelled(t) })
	s.NoUDP, s.NoUnix = true, true
	s.Lacks = map[string]string{
		"conns": "the target of the outer relay is the inner one",
		"who":   "the inner relay does not see who the client is",
	}
	lab.TestCarrier(t, s)
}
