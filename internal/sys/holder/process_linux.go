package holder

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// Bounds of looking through processes, so that the message about a taken
// port comes soon even on a host with millions of descriptors.
const (
	scanTime  = 2 * time.Second
	scanLinks = 4 << 20
	scanBatch = 1024 // directory entries read at once
	scanText  = 64 << 10
)

var errEnough = errors.New("looked long enough")

// owners are the processes that have descriptors of the sockets of those
// inodes. Complete says that no process was hidden or left out.
func owners(inodes map[uint64]bool) (found map[uint64][]int, complete bool) {
	found = map[uint64][]int{}
	complete = os.Geteuid() == 0 // others may be kept from seeing even the list (hidepid)
	if len(inodes) == 0 {
		return found, complete
	}
	end, links := time.Now().Add(scanTime), 0
	link := make([]byte, 64)
	err := entries("/proc", func(_ int, name string) error {
		pid, err := strconv.Atoi(name)
		if err != nil {
			return nil
		}
		err = entries(filepath.Join("/proc", name, "fd"), func(dir int, fd string) error {
			if links++; links > scanLinks || links%scanBatch == 0 && time.Now().After(end) {
				return errEnough
			}
			n, err := unix.Readlinkat(dir, fd, link)
			if err != nil {
				return err
			}
			inode, ok := parseLink(string(link[:n]))
			if ok && inodes[inode] && !slices.Contains(found[inode], pid) {
				found[inode] = append(found[inode], pid)
			}
			return nil
		})
		if errors.Is(err, fs.ErrPermission) {
			complete = false
		}
		if errors.Is(err, errEnough) {
			return err
		}
		return nil // hidden, or gone meanwhile
	})
	return found, complete && err == nil
}

// entries calls each with the open directory and every name in it. An entry
// that is gone is none; any other error ends it.
func entries(dir string, each func(dir int, name string) error) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	for {
		names, err := f.Readdirnames(scanBatch)
		for _, name := range names {
			if err := each(fd, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// first is the process of pids that got the socket first: the oldest, since
// workers are made after it was opened. But systemd comes last, the system's
// or a user's: what it opened for a service is the service's.
func first(pids []int) (Holder, bool) {
	var best Holder
	var since uint64
	slices.Sort(pids) // of those that began in the same tick, likely by age
	for _, pid := range pids {
		h, start, ok := process(pid)
		if !ok {
			continue
		}
		opener, was := h.Name == "systemd", best.Name == "systemd"
		if best.PID == 0 || was && !opener || was == opener && start < since {
			best, since = h, start
		}
	}
	return best, best.PID != 0
}

// process says what /proc tells of a process, and when it began, in ticks.
func process(pid int) (h Holder, start uint64, ok bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	name, start, ok := parseStat(read(dir, "stat"))
	if !ok {
		return Holder{}, 0, false // gone
	}
	h = Holder{PID: pid, Name: printable(name), UID: parseUID(read(dir, "status")), Age: age(start)}
	h.User = userName(h.UID)
	h.Unit, h.UserUnit, h.Container = parseCgroup(string(read(dir, "cgroup")))
	h.Container = h.Container.with(parseArgs(name, read(dir, "cmdline")))
	return h, start, true
}

func read(dir, name string) []byte {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, scanText)) // what is not there is not known
	return b
}

// age is the time since the process started, in ticks since boot. A tick is
// 10 ms for programs whatever the kernel's own clock (USER_HZ).
func age(ticks uint64) time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil || ticks > uint64(now.Nano()/1e7) {
		return 0
	}
	return time.Duration(now.Nano()) - time.Duration(ticks)*10*time.Millisecond
}

func userName(uid int) string {
	if uid < 0 {
		return ""
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return ""
	}
	return printable(u.Username)
}

// parseLink reads the target of a descriptor's link: "socket:[123]".
func parseLink(s string) (inode uint64, ok bool) {
	s, ok = strings.CutPrefix(s, "socket:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return inode, err == nil
}

// parseStat reads the name and the time of start from /proc/PID/stat
// (proc_pid_stat(5)). The name may hold spaces and parentheses itself.
func parseStat(b []byte) (name string, start uint64, ok bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return "", 0, false
	}
	words := strings.Fields(string(b[end+1:]))
	if len(words) < 20 {
		return "", 0, false
	}
	start, err := strconv.ParseUint(words[19], 10, 64) // field 22; words[0] is field 3
	return string(b[open+1 : end]), start, err == nil
}

// parseUID reads the effective user from /proc/PID/status; -1 when it does
// not tell.
func parseUID(b []byte) int {
	for line := range strings.Lines(string(b)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			words := strings.Fields(ids) // real, effective, saved, file system
			if len(words) == 4 {
				if uid, err := strconv.ParseUint(words[1], 10, 31); err == nil {
					return int(uid)
				}
			}
			return -1
		}
	}
	return -1
}

// parseCgroup reads /proc/PID/cgroup (cgroups(7)): the container from the
// names that the engines give their groups, else the systemd unit.
func parseCgroup(text string) (unit string, user bool, c Container) {
	for line := range strings.Lines(text) {
		words := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(words) < 3 {
			continue
		}
		parts := strings.Split(words[2], "/")
		for i, part := range parts {
			if c = containerOf(part, parts[:i]); c != (Container{}) {
				return "", false, c
			}
		}
		// Units are in the unified tree, or in systemd's own of the old kind.
		if unit == "" && (words[0] == "0" || words[1] == "name=systemd") {
			unit, user = unitOf(parts)
		}
	}
	return unit, user, Container{}
}

// unitOf is the innermost unit of a control group's path. The scopes of
// logins and of init itself hold everything and nothing, and are none.
func unitOf(parts []string) (unit string, user bool) {
	for _, part := range parts {
		part = strings.TrimPrefix(part, "_") // systemd's escape
		service := strings.HasSuffix(part, ".service")
		switch {
		case service && strings.HasPrefix(part, "user@"):
			unit, user = "", true
		case part == "init.scope", strings.HasPrefix(part, "session-"):
		case service, strings.HasSuffix(part, ".scope"):
			unit = printable(part)
		}
	}
	return unit, user && unit != ""
}

// engines are the prefixes that container engines put before the id.
var engines = []struct{ prefix, runtime string }{
	{"docker-", "docker"},
	{"libpod-conmon-", "podman"},
	{"libpod-", "podman"},
	{"crio-conmon-", "cri-o"},
	{"crio-", "cri-o"},
	{"cri-containerd-", "containerd"},
	{"nerdctl-", "containerd"},
}

// containerOf is the container that one element of a control group's path
// names, by what stands before it.
func containerOf(part string, before []string) Container {
	if name, ok := strings.CutPrefix(part, "lxc.payload."); ok && name != "" {
		return Container{Runtime: "lxc", Name: printable(name)}
	}
	part = strings.TrimSuffix(part, ".scope")
	for _, e := range engines {
		if id, ok := strings.CutPrefix(part, e.prefix); ok && isID(id) {
			return Container{Runtime: e.runtime, ID: id[:12]}
		}
	}
	// containerd under systemd: SLICE:cri-containerd:ID
	if words := strings.Split(part, ":"); len(words) == 3 && isID(words[2]) {
		return Container{Runtime: "containerd", ID: words[2][:12]}
	}
	if !isID(part) {
		return Container{}
	}
	for _, b := range before {
		switch {
		case b == "docker":
			return Container{Runtime: "docker", ID: part[:12]}
		case strings.HasPrefix(b, "kubepods"):
			return Container{Runtime: "kubernetes", ID: part[:12]}
		}
	}
	return Container{}
}

// isID says whether s is a container's full id, a SHA-256 in hexadecimal.
func isID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// parseArgs reads what the engines' helper processes, which hold the ports of
// containers on this host, say on their command lines.
func parseArgs(name string, cmdline []byte) (c Container) {
	args := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	after := func(flag string) string {
		if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
			return args[i+1]
		}
		return ""
	}
	switch name {
	case "docker-proxy":
		ip, err1 := netip.ParseAddr(after("-container-ip"))
		port, err2 := strconv.ParseUint(after("-container-port"), 10, 16)
		if err1 == nil && err2 == nil {
			c = Container{Runtime: "docker", Target: netip.AddrPortFrom(ip.WithZone(""), uint16(port))}
		}
	case "conmon":
		if id := after("-c"); isID(id) {
			c = Container{ID: id[:12], Name: printable(after("-n"))}
		}
	}
	return c
}

// with is c, completed by d.
func (c Container) with(d Container) Container {
	if c.Runtime == "" {
		c.Runtime = d.Runtime
	}
	if c.ID == "" {
		c.ID = d.ID
	}
	if c.Name == "" {
		c.Name = d.Name
	}
	if !c.Target.IsValid() {
		c.Target = d.Target
	}
	return c
}

// printable is s fit for a terminal and short: names are chosen by whoever
// runs the process.
func printable(s string) string {
	if len(s) > 256 {
		s = s[:256]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
