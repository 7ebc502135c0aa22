package place

import (
	"context"
	"slices"
	"strings"

	"fairlead"
)

// A Service is one service record (RFC 2782): a host and a port, of which those
// with the lowest priority are meant to be used, each in proportion to its
// weight. The host is a name without the final dot.
type Service struct {
	Host             string
	Port             uint16
	Priority, Weight uint16
}

// maxServices bounds what is kept of one name.
const maxServices = 64

// serviceKey stands before the names of services in the cache. No name has a
// blank.
const serviceKey = "srv "

// Services returns the service records of name, as in "_sip._tcp.example.net",
// in no certain order, from 1 to 64. They are remembered, renewed, and used
// while lookups fail as addresses are by [Names.Lookup], with the same errors. A
// service of which DNS says that it is decidedly not there, with the single
// host ".", is one that is unknown.
func (n *Names) Services(ctx context.Context, name string) ([]Service, error) {
	r, err := n.find(ctx, serviceKey+name, name)
	if err != nil {
		return nil, err
	}
	return slices.Clone(r.services), nil
}

// Services returns the service records of name; see [Names.Services].
func (h *Here) Services(ctx context.Context, name string) ([]Service, error) {
	return h.names.Services(ctx, name)
}

// askServices looks the service records of name up once, within ctx.
func (n *Names) askServices(ctx context.Context, name string) answer {
	s, r := n.resolver(ctx)
	s.service = true
	// A final dot, or the search list would be gone through for a name that
	// is whole.
	_, found, err := r.LookupSRV(ctx, "", "", strings.TrimSuffix(name, ".")+".")
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Service
	for _, srv := range found {
		if host := strings.TrimSuffix(srv.Target, "."); host != "" && srv.Port != 0 && len(list) < maxServices {
			list = append(list, Service{host, srv.Port, srv.Priority, srv.Weight})
		}
	}
	switch {
	case len(list) > 0: // the resolver tells an error as well where some records are malformed
	case err != nil:
		return s.failure(name, err)
	default:
		return answer{err: noService(name, s.said("said not to be offered by", "said not to be offered")), negative: true, ttl: s.ttl}
	}
	return answer{found: &finding{services: list}, ttl: s.held()}
}

func noService(name, why string) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeNameUnknown, "no service record for %q%s", name, why).
		Fix("correct the name, or name the host and port themselves", "")
}
