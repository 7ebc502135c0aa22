package holder

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

func find(proto string, at bound, port uint16) ([]Holder, error) {
	// A listener is the likely holder; a connection made from that port
	// keeps it from being bound just as well, and is looked for second.
	passes := []uint32{listens[proto], all &^ listens[proto]}
	for _, states := range passes {
		list, err := inetSockets(proto, port, states)
		if err != nil {
			return nil, fmt.Errorf("who holds port %d/%s: %w", port, proto, err)
		}
		var held []socket
		for _, s := range list {
			if s.local.conflicts(at) {
				held = append(held, s)
			}
		}
		if len(held) > 0 {
			return holders(held), nil
		}
	}
	return nil, nil
}

func listening(proto string) (*Listeners, error) {
	list, err := inetSockets(proto, 0, listens[proto])
	if err != nil {
		return nil, fmt.Errorf("who listens at %s ports: %w", proto, err)
	}
	l := &Listeners{at: make(map[uint16][]bound, len(list))}
	for _, s := range list {
		l.at[s.port] = append(l.at[s.port], s.local)
	}
	return l, nil
}

func services(proto string) ([]Service, error) {
	list, err := inetSockets(proto, 0, listens[proto])
	if err != nil {
		return nil, fmt.Errorf("who listens at %s ports: %w", proto, err)
	}
	inodes := map[uint64]bool{}
	for _, s := range list {
		inodes[s.inode] = true
	}
	owners, complete := owners(inodes)
	all := make([]Service, len(list))
	for i, s := range list {
		h, ok := first(owners[s.inode])
		if !ok {
			h = Holder{UID: s.uid, User: userName(s.uid), Nobody: complete}
		}
		all[i] = Service{At: netip.AddrPortFrom(s.local.addr, s.port), V6Only: s.local.v6only, Holder: h}
	}
	return all, nil
}

func findPath(path string) ([]Holder, error) {
	var file fs.FileInfo
	if !strings.HasPrefix(path, "@") {
		var err error
		if file, err = os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		} else if err != nil {
			return nil, fmt.Errorf("who holds %s: %w", path, err)
		}
	}
	list, err := unixSockets()
	if err != nil {
		return nil, fmt.Errorf("who holds %s: %w", path, err)
	}
	var held []socket
	for _, s := range list {
		if s.path == path || file != nil && isAt(s.path, path, file) {
			held = append(held, s)
		}
	}
	return holders(held), nil
}

// isAt says whether a socket bound at own is the file of path by another way
// (/var/run for /run). Only namesakes are looked at: own is a stranger's word.
func isAt(own, path string, file fs.FileInfo) bool {
	if !filepath.IsAbs(own) || filepath.Base(own) != filepath.Base(path) {
		return false
	}
	info, err := os.Stat(own)
	return err == nil && os.SameFile(info, file)
}

// holders finds the processes of sockets, one Holder for each.
func holders(held []socket) []Holder {
	inodes := map[uint64]bool{}
	for _, s := range held {
		inodes[s.inode] = true
	}
	owners, complete := owners(inodes)
	var list []Holder
	said := map[int]bool{}   // by process
	unseen := map[int]bool{} // by user
	for _, s := range held {
		h, ok := first(owners[s.inode])
		if !ok {
			h = Holder{UID: s.uid, User: userName(s.uid), Nobody: complete}
		}
		h.Connected = s.connected
		if seen := said[h.PID] || h.PID == 0 && unseen[h.UID]; seen {
			continue
		}
		if h.PID == 0 {
			unseen[h.UID] = true
		} else {
			said[h.PID] = true
		}
		list = append(list, h)
	}
	return list
}
