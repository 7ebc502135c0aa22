package netmon

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func diverted(v6 bool) (mark uint32, ok bool, err error) {
	family := netlink.FAMILY_V4
	if v6 {
		family = netlink.FAMILY_V6
	}
	rules, err := netlink.RuleList(family)
	if err != nil {
		return 0, false, fmt.Errorf("list policy rules: %w", err)
	}
	for _, rule := range rules {
		if rule.Mark == 0 || rule.Table == 0 || rule.Invert {
			continue
		}
		local := false
		err := netlink.RouteListFilteredIter(family, &netlink.Route{Table: rule.Table, Type: unix.RTN_LOCAL},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE, func(r netlink.Route) bool {
				local = local || isDefault(r.Dst)
				return !local
			})
		if err != nil {
			return 0, false, fmt.Errorf("list the routes of table %d: %w", rule.Table, err)
		}
		if local {
			return rule.Mark, true, nil
		}
	}
	return 0, false, nil
}
