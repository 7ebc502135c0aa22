package town

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// groups hands out the CPU groups of a town, by the best means that the
// system offers: the cpuacct controller of version 1, version 2, or the times
// in /proc, which have a grain of 10 ms.
type groups interface {
	group(name string) (*Group, error)
	how() string
	spent() time.Duration // by all groups together
	close() error         // ends all processes in them and removes them
}

// A Group is a set of processes whose CPU time is counted together.
type Group struct {
	cpu   func() (time.Duration, error)
	pids  func() []int
	start func(*exec.Cmd) error // on the thread of a host

	mu       sync.Mutex // guards what follows
	sessions []int      // leaders of the sessions started in it
}

// CPU is the time that the group's processes have spent so far.
func (g *Group) CPU() (time.Duration, error) { return g.cpu() }

// PIDs are the processes of the group that live now.
func (g *Group) PIDs() []int { return g.pids() }

// CountedBy says how CPU time is counted.
func (t *Town) CountedBy() string { return t.groups.how() }

// Spent is the CPU time of all programs of the town so far.
func (t *Town) Spent() time.Duration { return t.groups.spent() }

const prefix = "fairlead-bench-"

func newGroups() (groups, error) {
	paths, err := controllers()
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		sweep(p.dir)
	}
	me := prefix + strconv.Itoa(os.Getpid())
	c := &cgroups{made: map[string]*Group{}}
	for _, p := range paths {
		dir := filepath.Join(p.dir, me)
		switch {
		case p.has("cpuacct") && c.dir == "" && os.Mkdir(dir, 0o755) == nil:
			c.dir, c.v1 = dir, true
			if p.has("cpu") { // both in one hierarchy: the group has its share, too
				c.share(dir, p.dir, false)
			}
		case p.has("cpu") && os.Mkdir(dir, 0o755) == nil:
			c.share(dir, p.dir, true)
		}
	}
	for _, p := range paths {
		dir := filepath.Join(p.dir, me)
		if p.version2 && c.dir == "" && os.Mkdir(dir, 0o755) == nil {
			c.dir = dir
		}
	}
	if c.dir == "" {
		c.close()
		return &sessions{made: map[string]*Group{}}, nil
	}
	return c, nil
}

// cgroups are groups by control groups of version 1 or 2.
type cgroups struct {
	dir    string
	v1     bool
	shared bool // the benchmark has a large share of the CPU
	undo   []func()

	mu   sync.Mutex // guards made
	made map[string]*Group
}

func (c *cgroups) how() string {
	s := "cgroup version 2"
	if c.v1 {
		s = "cgroup version 1 (cpuacct)"
	}
	if c.shared {
		s += ", the whole benchmark with a share of the CPU that other work cannot take"
	}
	return s
}

// share gives what is in dir a share of the CPU that other work on the
// machine cannot take; enter says that this process has to move there.
func (c *cgroups) share(dir, home string, enter bool) {
	if os.WriteFile(filepath.Join(dir, "cpu.shares"), []byte("262144"), 0) != nil {
		return
	}
	if enter {
		me := []byte(strconv.Itoa(os.Getpid()))
		if os.WriteFile(filepath.Join(dir, "cgroup.procs"), me, 0) != nil {
			os.Remove(dir)
			return
		}
		c.undo = append(c.undo, func() {
			os.WriteFile(filepath.Join(home, "cgroup.procs"), me, 0)
			removeSoon(dir)
		})
	}
	c.shared = true
}

func (c *cgroups) spent() time.Duration { return spentBy(&c.mu, c.made) }

func (s *sessions) spent() time.Duration { return spentBy(&s.mu, s.made) }

func spentBy(mu *sync.Mutex, made map[string]*Group) (sum time.Duration) {
	mu.Lock()
	defer mu.Unlock()
	for _, g := range made {
		if cpu, err := g.CPU(); err == nil {
			sum += cpu
		}
	}
	return sum
}

func (c *cgroups) group(name string) (*Group, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g := c.made[name]; g != nil {
		return g, nil
	}
	dir := filepath.Join(c.dir, strings.Map(plain, name))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the CPU group of %s: %w", name, err)
	}
	g := &Group{
		cpu:   func() (time.Duration, error) { return c.cpu(dir) },
		pids:  func() []int { return pidsIn(dir) },
		start: func(cmd *exec.Cmd) error { return c.start(dir, cmd) },
	}
	c.made[name] = g
	return g, nil
}

func (c *cgroups) cpu(dir string) (time.Duration, error) {
	if c.v1 {
		b, err := os.ReadFile(filepath.Join(dir, "cpuacct.usage"))
		if err != nil {
			return 0, err
		}
		ns, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		return time.Duration(ns), err
	}
	b, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	us, err := statField(string(b), "usage_usec")
	return time.Duration(us) * time.Microsecond, err
}

// start makes cmd begin its life inside the group, so that no child of its
// can be missed: version 2 has a flag of clone(2) for that; in version 1 the
// thread that forks goes there and comes back.
func (c *cgroups) start(dir string, cmd *exec.Cmd) error {
	if !c.v1 {
		fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
		return cmd.Start()
	}
	tid := []byte(strconv.Itoa(unix.Gettid()))
	if err := os.WriteFile(filepath.Join(dir, "tasks"), tid, 0); err != nil {
		return err
	}
	err := cmd.Start()
	return errors.Join(err, os.WriteFile(filepath.Join(c.dir, "tasks"), tid, 0))
}

func (c *cgroups) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range c.made {
		g.kill()
	}
	var errs []error
	if c.dir != "" {
		// The hosts' threads may have stayed there.
		for _, tid := range pidsOf(filepath.Join(c.dir, "tasks")) {
			os.WriteFile(filepath.Join(filepath.Dir(c.dir), "tasks"), []byte(strconv.Itoa(tid)), 0)
		}
		subs, _ := filepath.Glob(filepath.Join(c.dir, "*", "tasks"))
		if !c.v1 {
			subs, _ = filepath.Glob(filepath.Join(c.dir, "*", "cgroup.procs"))
		}
		for _, sub := range subs {
			errs = append(errs, removeSoon(filepath.Dir(sub)))
		}
		errs = append(errs, removeSoon(c.dir))
	}
	for _, f := range c.undo {
		f()
	}
	return errors.Join(errs...)
}

// sessions are groups by the times in /proc of all processes of the sessions
// that were started.
type sessions struct {
	mu   sync.Mutex // guards made
	made map[string]*Group
}

func (s *sessions) how() string { return "/proc/PID/stat (no writable cgroup), grain 10 ms" }

func (s *sessions) group(name string) (*Group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.made[name]; g != nil {
		return g, nil
	}
	g := &Group{start: (*exec.Cmd).Start}
	g.pids = func() []int {
		var pids []int
		g.eachStat(func(pid int, _ time.Duration) { pids = append(pids, pid) })
		return pids
	}
	g.cpu = func() (time.Duration, error) {
		var sum time.Duration
		g.eachStat(func(_ int, cpu time.Duration) { sum += cpu })
		return sum, nil
	}
	s.made[name] = g
	return g, nil
}

func (s *sessions) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.made {
		g.kill()
	}
	return nil
}

// eachStat visits the processes of the group's sessions, each with its time
// and that of its children that have ended.
func (g *Group) eachStat(visit func(pid int, cpu time.Duration)) {
	g.mu.Lock()
	leaders := append([]int(nil), g.sessions...)
	g.mu.Unlock()
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		st, ok := parseStat(string(b))
		if !ok || st.state == "Z" {
			continue
		}
		for _, l := range leaders {
			if st.session == l {
				visit(pid, st.cpu)
			}
		}
	}
}

// KernelThreads is the CPU time that work queues and deferred interrupts of
// the kernel have spent so far; it belongs to no group.
func KernelThreads() time.Duration {
	var sum time.Duration
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if e.Name()[0] < '0' || e.Name()[0] > '9' {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil || !(strings.Contains(string(b), "(kworker") || strings.Contains(string(b), "(ksoftirqd")) {
			continue
		}
		if st, ok := parseStat(string(b)); ok {
			sum += st.cpu
		}
	}
	return sum
}

func controllers() ([]controller, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	mine, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, nil // a kernel without control groups
	}
	return parseControllers(string(mounts), string(mine)), nil
}

// sweep removes groups of benchmarks that were killed, with the processes
// that are left in them.
func sweep(dir string) {
	old, _ := filepath.Glob(filepath.Join(dir, prefix+"*"))
	for _, d := range old {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(d), prefix))
		if err != nil || syscall.Kill(pid, 0) == nil {
			continue
		}
		subs, _ := filepath.Glob(filepath.Join(d, "*", "cgroup.procs"))
		for _, sub := range append(subs, filepath.Join(d, "cgroup.procs")) {
			for _, pid := range pidsOf(sub) {
				syscall.Kill(pid, syscall.SIGKILL)
			}
			removeSoon(filepath.Dir(sub))
		}
	}
}

// removeSoon removes a group whose last process may still be on its way out.
func removeSoon(dir string) (err error) {
	for range 100 {
		if err = os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

func pidsIn(dir string) []int { return pidsOf(filepath.Join(dir, "cgroup.procs")) }

func pidsOf(file string) []int {
	b, _ := os.ReadFile(file)
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func plain(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
		return r
	}
	return '-'
}
