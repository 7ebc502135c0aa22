package town

import (
	"reflect"
	"testing"
	"time"
)

func TestStatOfAProcess(t *testing.T) {
	// The name is the program's own choice.
	line := "812 (a) R (b) S 1 812 700 0 -1 4194560 100 0 0 0 150 50 7 3 20 0 1 0 100 1000 10"
	got, ok := parseStat(line)
	if want := (stat{state: "S", session: 700, cpu: 2100 * time.Millisecond}); !ok || got != want {
		t.Errorf("read %+v, %v; want %+v", got, ok, want)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 1 1", "1 (x) S 1 1 one 0 0 0 0 0 0 0 1 1 1 1 1"} {
		if _, ok := parseStat(bad); ok {
			t.Errorf("%q was taken for a process", bad)
		}
	}
}

func TestUseOfTheMachine(t *testing.T) {
	before := parseMachine("cpu  100 0 100 700 50 0 0 50 0 0\ncpu0 1 1 1 1\n")
	after := parseMachine("cpu  140 5 130 800 60 5 10 60 0 0\n")
	use := after.Since(before)
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	if want := (Machine{Busy: ms(900), Idle: ms(1100), Stolen: ms(100)}); use != want {
		t.Fatalf("the use is %+v, want %+v", use, want)
	}
	if got := use.Part(ms(525)); got != 0.25 {
		t.Errorf("525 ms of %+v are %v, want a quarter", use, got)
	}
}

func TestControllersAreFound(t *testing.T) {
	for _, c := range []struct {
		name, mounts, mine string
		want               []controller
	}{
		{"version 1, controllers apart",
			"tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\ncgroup /sys/fs/cgroup/cpuacct cgroup rw,cpuacct 0 0\n",
			"2:cpuacct:/\n1:cpu:/user\n",
			[]controller{{names: []string{"cpu"}, dir: "/sys/fs/cgroup/cpu/user"}, {names: []string{"cpuacct"}, dir: "/sys/fs/cgroup/cpuacct"}}},
		{"version 1, controllers together",
			"cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n", "4:cpu,cpuacct:/a\n",
			[]controller{{names: []string{"cpu", "cpuacct"}, dir: "/sys/fs/cgroup/cpu,cpuacct/a"}}},
		{"version 2", "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n", "0::/user.slice/x.scope\n",
			[]controller{{version2: true, dir: "/sys/fs/cgroup/user.slice/x.scope"}}},
		{"none", "proc /proc proc rw 0 0\n", "", nil},
	} {
		if got := parseControllers(c.mounts, c.mine); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: found %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestFieldsOfFiles(t *testing.T) {
	if n, err := statField("usage_usec 12\nuser_usec 7\n", "user_usec"); n != 7 || err != nil {
		t.Errorf("user_usec is %d, %v", n, err)
	}
	if _, err := statField("usage_usec 12\n", "nothing"); err == nil {
		t.Error("a field that is not there was read")
	}
	if n := fieldKiB("Rss:  1000 kB\nPss:   12 kB\n", "Pss:"); n != 12 {
		t.Errorf("Pss is %d", n)
	}
}
