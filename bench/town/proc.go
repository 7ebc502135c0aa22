package town

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stat is what /proc/PID/stat says of a process, see proc_pid_stat(5).
type stat struct {
	state   string
	session int
	cpu     time.Duration // its own and that of children it has waited for
}

func parseStat(line string) (stat, bool) {
	// The name may hold anything, even ")", so the fields begin behind the
	// last one.
	i := strings.LastIndexByte(line, ')')
	if i < 0 {
		return stat{}, false
	}
	f := strings.Fields(line[i+1:])
	if len(f) < 15 {
		return stat{}, false
	}
	session, err := strconv.Atoi(f[3])
	if err != nil {
		return stat{}, false
	}
	var ticks int64
	for _, s := range f[11:15] { // utime stime cutime cstime
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return stat{}, false
		}
		ticks += n
	}
	return stat{state: f[0], session: session, cpu: time.Duration(ticks) * 10 * time.Millisecond}, true
}

// A Machine is the time that all processors have spent since the start.
type Machine struct {
	Busy, Idle, Stolen time.Duration
}

// Since is what was spent between two readings.
func (m Machine) Since(before Machine) Machine {
	return Machine{m.Busy - before.Busy, m.Idle - before.Idle, m.Stolen - before.Stolen}
}

// Part is d as a part of all time there was.
func (m Machine) Part(d time.Duration) float64 {
	if all := m.Busy + m.Idle + m.Stolen; all > 0 {
		return max(0, float64(d)/float64(all))
	}
	return 0
}

// parseMachine reads the first line of /proc/stat, see proc_stat(5).
func parseMachine(text string) (m Machine) {
	line, _, _ := strings.Cut(text, "\n")
	for i, f := range strings.Fields(line) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			continue // the name of the line
		}
		d := time.Duration(n) * 10 * time.Millisecond
		switch i {
		case 1, 2, 3, 6, 7: // user nice system irq softirq
			m.Busy += d
		case 4, 5: // idle iowait
			m.Idle += d
		case 8:
			m.Stolen += d
		}
	}
	return m
}

// statField is a number of a file of lines "name number", as cpu.stat is.
func statField(text, name string) (int64, error) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			return strconv.ParseInt(f[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("there is no %s", name)
}

// fieldKiB is a number of a file of lines "name number kB", as smaps_rollup
// and meminfo are; 0 where there is none.
func fieldKiB(text, name string) int64 {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// A controller is a mounted hierarchy of control groups, and the directory of
// this process in it.
type controller struct {
	names    []string
	version2 bool
	dir      string
}

func (c controller) has(name string) bool {
	return slices.Contains(c.names, name)
}

// parseControllers reads /proc/self/mounts and /proc/self/cgroup.
func parseControllers(mounts, mine string) []controller {
	at := map[string]string{} // controller, "" for version 2 → path of this process
	for line := range strings.Lines(mine) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, name := range strings.Split(f[1], ",") {
			at[name] = f[2]
		}
	}
	var found []controller
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 4 || f[2] != "cgroup" && f[2] != "cgroup2" {
			continue
		}
		c := controller{version2: f[2] == "cgroup2"}
		path, known := at[""], c.version2
		if !c.version2 {
			for _, option := range strings.Split(f[3], ",") {
				if p, ok := at[option]; ok {
					c.names = append(c.names, option)
					path, known = p, true
				}
			}
		}
		if known {
			c.dir = filepath.Join(f[1], path)
			found = append(found, c)
		}
	}
	return found
}
