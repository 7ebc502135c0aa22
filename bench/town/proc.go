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
