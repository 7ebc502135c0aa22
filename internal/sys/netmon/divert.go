package netmon

// Diverted tells how packets that are not for this host's addresses are
// delivered to it all the same: by a policy rule that leads a firewall mark to a
// table with a local route for every destination, as transparent proxies need
// (ip-rule(8)). mark is the first such rule's. ok is false without one; an error
// means that nobody can tell, as on systems that have nothing of the kind.
func Diverted(v6 bool) (mark uint32, ok bool, err error) { return diverted(v6) }
