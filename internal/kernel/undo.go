package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"fairlead/internal/sys/firewalls"
)

// An Undo is one thing that was changed on this machine outside our table, and
// how to put it back as it was found. Exactly one of Sysctl, Address and
// Firewall is set.
//
// Records lie where the service's user can write, and "fairlead clean" follows
// them as root: they say nothing that the service could not do by itself.
type Undo struct {
	For string `json:"for,omitempty"` // name of the forward that needed it

	// Network tells the network namespaces of one machine apart (its inode); 0
	// where that is not known. It is noted by itself.
	Network uint64 `json:"network,omitempty"`

	// Sysctl is a kernel parameter of the network, "net.ipv4.ip_forward". It gets Old back,
	// unless it has another value than New by then: somebody else set it.
	Sysctl string `json:"sysctl,omitempty"`
	Old    string `json:"old,omitempty"`
	New    string `json:"new,omitempty"`

	// Address, "10.0.0.3/24", was added to Interface and is taken away.
	Address   string `json:"address,omitempty"`
	Interface string `json:"interface,omitempty"`

	// Firewall, "docker", was asked to let something through that bears Mark; all
	// of it is taken back.
	Firewall string `json:"firewall,omitempty"`
	Mark     string `json:"mark,omitempty"`
}

// String says what putting it back does.
func (u Undo) String() string {
	switch {
	case u.Sysctl != "":
		return "sysctl -w " + u.Sysctl + "=" + u.Old
	case u.Address != "":
		return "ip address del " + u.Address + " dev " + u.Interface
	}
	return "take back what " + u.Firewall + " was asked to let through for " + u.Mark
}

// subject is what two records must not both be about.
func (u Undo) subject() string {
	switch {
	case u.Sysctl != "":
		return "sysctl " + u.Sysctl
	case u.Address != "":
		return "address " + u.Interface + " " + u.Address
	}
	return "firewall " + u.Firewall + " " + u.Mark
}

// undos are what one instance has to put back. They are written to its
// directory before the change is made, so that nothing is forgotten by a crash.
// Methods may be called concurrently.
type undos struct {
	path string // "" without a directory: they last as long as the process

	mu   sync.Mutex // guards the rest
	list []Undo
}

const undoPrefix, undoSuffix = "undo-", ".json"

// openUndos reads what an earlier life of the table's carrier left to be put
// back.
func openUndos(dir, table string) (*undos, error) {
	if dir == "" {
		return &undos{}, nil
	}
	u := &undos{path: filepath.Join(dir, undoPrefix+table+undoSuffix)}
	list, err := readUndos(u.path)
	u.list = list
	return u, err
}

func readUndos(path string) ([]Undo, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Undo
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s: what has to be put back cannot be read: %w", path, err)
	}
	return list, nil
}

// note remembers r, before what it takes back is done. What is remembered of
// the same subject already stays: the first record knows how it was found. It
// belongs into the carrier's network namespace.
func (u *undos) note(r Undo) error {
	r.Network = network()
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := slices.IndexFunc(u.list, func(o Undo) bool { return o.subject() == r.subject() }); i >= 0 {
		if u.list[i].New == r.New {
			return nil
		}
		u.list[i].New = r.New
		return u.write()
	}
	u.list = append(u.list, r)
	if err := u.write(); err != nil {
		u.list = u.list[:len(u.list)-1]
		return err
	}
	return nil
}

// putBack puts back what remembered says, and forgets it. What could not be put
// back stays remembered.
func (u *undos) putBack(which func(Undo) bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var left []Undo
	var failed []error
	for _, r := range slices.Backward(u.list) {
		if which != nil && !which(r) {
			left = append(left, r)
			continue
		}
		if err := r.do(); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", r, err))
			left = append(left, r)
		}
	}
	slices.Reverse(left)
	if len(left) != len(u.list) {
		u.list = left
		failed = append(failed, u.write())
	}
	return errors.Join(failed...)
}

// all are what is remembered, in the order in which it was done.
func (u *undos) all() []Undo {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.list)
}

// write writes the list beside the old one and puts it in its place.
func (u *undos) write() error {
	if u.path == "" {
		return nil
	}
	if len(u.list) == 0 {
		if err := os.Remove(u.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.MarshalIndent(u.list, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(u.path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(u.path), ".undo-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), u.path)
	}
	return err
}

// do puts it back.
func (r Undo) do() error {
	switch {
	case r.Sysctl != "":
		path := sysctlPath(r.Sysctl)
		if path != filepath.Clean(path) || !strings.HasPrefix(path, "/proc/sys/net/") {
			return fmt.Errorf("%q is no parameter of the network", r.Sysctl)
		}
		now, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // its interface is gone
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(now)) != r.New {
			return nil
		}
		return os.WriteFile(path, []byte(r.Old), 0)
	case r.Address != "":
		return dropAddress(r.Interface, r.Address)
	case r.Firewall != "":
		if !strings.HasPrefix(r.Mark, tablePrefix) {
			return fmt.Errorf("%q is no mark of ours", r.Mark)
		}
		return firewalls.Clear(context.Background(), r.Firewall, r.Mark)
	}
	return nil
}

// sysctlPath is the file of a kernel parameter. As for sysctl(8) a dot in an
// interface's name is written as a slash: "net.ipv4.conf.eth0/100.rp_filter".
func sysctlPath(key string) string {
	return "/proc/sys/" + strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}
