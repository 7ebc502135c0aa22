package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead/internal/lab"
	"fairlead/packaging/systemd"
)

// housed runs a program that has directories of its own in place of some of the
// machine's: housed DIR PROGRAM ARGS...
func housed() {
	runtime.LockOSThread()
	must(unix.Unshare(unix.CLONE_NEWNS))
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	for to, from := range houseRooms {
		must(unix.Mount(filepath.Join(os.Args[1], from), to, "", unix.MS_BIND, ""))
	}
	must(os.Chdir("/"))
	become(os.Args[2:])
}

// houseRooms are the directories that a house has of its own.
var houseRooms = map[string]string{"/etc": "etc", "/var/lib": "lib", "/run": "run", "/usr/local/bin": "bin"}

// A home is a machine's own directories, for programs on one host.
type home struct {
	t    *testing.T
	dir  string
	host *lab.Host
	env  []string
}

// newHome makes one. Its machine has systemd's programs and is not run by it,
// and it has the service's user.
func newHome(t *testing.T, host *lab.Host) *home {
	t.Helper()
	lab.NeedRoot(t)
	h := &home{t: t, dir: newDir(t), host: host}
	for _, room := range houseRooms {
		if err := os.MkdirAll(filepath.Join(h.dir, room), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"systemd/system/multi-user.target.wants", "sysctl.d"} {
		if err := os.MkdirAll(filepath.Join(h.dir, "etc", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"passwd", "group", "shadow", "gshadow", "nsswitch.conf", "login.defs", "ld.so.cache"} {
		text, err := os.ReadFile("/etc/" + name)
		if err != nil {
			continue
		}
		lines := slices.DeleteFunc(strings.SplitAfter(string(text), "\n"), func(l string) bool { return strings.HasPrefix(l, "fairlead:") })
		write(t, h.dir+"/etc/"+name, strings.Join(lines, ""))
	}
	h.append("etc/passwd", "fairlead:x:997:997::/var/lib/fairlead:/usr/sbin/nologin\n")
	h.append("etc/group", "fairlead:x:997:\n")
	program, err := os.ReadFile(filepath.Join(bin, "fairlead"))
	if err == nil {
		err = os.WriteFile(h.dir+"/bin/fairlead", program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *home) append(name, text string) {
	h.t.Helper()
	old, err := os.ReadFile(filepath.Join(h.dir, name))
	if err != nil {
		h.t.Fatal(err)
	}
	write(h.t, filepath.Join(h.dir, name), string(old)+text)
}

func (h *home) spec() spec {
	return spec{before: []string{"housed", h.dir}, path: "/usr/local/bin/fairlead", host: h.host,
		env: append([]string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "FAIRLEAD_SOCKET=", "FAIRLEAD_CONFIG=", "STATE_DIRECTORY="}, h.env...)}
}

func (h *home) run(args ...string) (stdout, stderr string, code int) {
	h.t.Helper()
	p := h.spec().start(h.t, args...)
	<-p.done
	return p.stdout.String(), p.stderr.String(), p.cmd.ProcessState.ExitCode()
}

// must runs a command that succeeds, and returns what it said.
func (h *home) must(args ...string) string {
	h.t.Helper()
	stdout, stderr, code := h.run(args...)
	if code != exitOK {
		h.t.Fatalf("%v: exit code %d\n%s%s", args, code, stdout, stderr)
	}
	return stdout + stderr
}

// fails runs a command that fails with this code, and returns what it said.
func (h *home) fails(exit int, says string, args ...string) string {
	h.t.Helper()
	_, stderr, code := h.run(args...)
	if code != exit || !regexp.MustCompile(says).MatchString(stderr) {
		h.t.Errorf("%v: exit code %d, want %d and %q\n%s", args, code, exit, says, stderr)
	}
	return stderr
}

func (h *home) read(name string) string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, name))
	if err != nil {
		h.t.Error(err)
	}
	return string(text)
}

// contents are all files and directories below dir with what is in them, but for
// what useradd(8) and its kind leave beside the files that they edit.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || regexp.MustCompile(`/etc/(.*-|\.pwd\.lock)$`).MatchString(path) {
			return err
		}
		st, err := os.Lstat(path)
		if err != nil {
			return err
		}
		sys := st.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d:%d", path, st.Mode(), sys.Uid, sys.Gid)
		switch {
		case st.Mode().IsRegular():
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %s", sumOf(string(text)))
		case st.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			fmt.Fprintf(&b, " %s", to)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (h *home) files() string { return contents(h.t, h.dir) }

// advertise has a host tell the network of its interface eth0 that it is a
// router (RFC 4861, 4.2).
func advertise(t *testing.T, from *lab.Host) {
	t.Helper()
	err := from.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		msg := make([]byte, 16)
		msg[0] = 134
		binary.BigEndian.PutUint16(msg[6:], 1800) // lifetime, seconds
		to := &unix.SockaddrInet6{ZoneId: uint32(link.Index)}
		copy(to.Addr[:], []byte{0: 0xff, 1: 0x02, 15: 1})
		return unix.Sendto(fd, msg, 0, to)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUninstallLeavesTheMachineAsItWasFound installs with forwarding on a machine
// where forwarding is off in an uncommon way, has the service carry forwards of
// all kinds, and takes everything away.
func TestUninstallLeavesTheMachineAsItWasFound(t *testing.T) {
	s := newSite(t)
	gw := s.Gateway.Gateway
	// A host that forwards from one interface, takes no redirects, and has its
	// default route from its neighbour's advertisements.
	gw.Sysctl("net.ipv4.ip_forward", "0")
	gw.Sysctl("net.ipv6.conf.all.forwarding", "0")
	gw.Sysctl("net.ipv4.conf.lan0.forwarding", "1")
	gw.Sysctl("net.ipv6.conf.lan0.forwarding", "1")
	gw.Sysctl("net.ipv4.conf.all.accept_redirects", "0")
	shell(t, gw, `ip -6 route del default
nft 'table inet mine { chain c { type filter hook forward priority 10; }; }'`)
	routers := func() string { return shell(t, gw, "ip -6 route show default") }
	eventually(t, "the default route is learned", func() bool {
		advertise(t, s.Outside)
		return strings.Contains(routers(), "proto ra")
	})
	h := newHome(t, gw)
	found := func() string { return h.files() + everything(t, gw) }
	before := found()

	plan := h.must("install", "--forwarding", "--dry-run")
	if now := found(); now != before {
		t.Fatalf("--dry-run changed something:\n%s", difference(before, now))
	}
	said := h.must("install", "--forwarding")
	for _, want := range []string{"wrote /etc/systemd/system/fairlead.service", "set net.ipv4.ip_forward = 1", "set net.ipv6.conf.wan0.accept_ra = 2", "left to do: systemctl enable --now fairlead"} {
		if !strings.Contains(said, want) || !strings.Contains(plan, strings.NewReplacer("wrote ", "would write ", "set ", "would set ").Replace(want)) {
			t.Errorf("it does not say %q:\n%s\n%s", want, plan, said)
		}
	}
	if unit := h.read("etc/systemd/system/fairlead.service"); unit != strings.ReplaceAll(systemd.Unit, "=/usr/bin/fairlead", "=/usr/local/bin/fairlead") {
		t.Errorf("the unit is\n%s", unit)
	}
	if text := h.read("etc/sysctl.d/50-fairlead.conf"); !strings.Contains(text, "\nnet/ipv6/conf/wan0/accept_ra = 2\nnet.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\n") {
		t.Errorf("the parameters' file is\n%s", text)
	}
	if r := routers(); !strings.Contains(r, "proto ra") {
		t.Errorf("the default route is lost: %q", r)
	}
	again := h.must("install", "--forwarding")
	if strings.Contains(again, "wrote") || strings.Contains(again, "\nset ") {
		t.Errorf("a second time it says\n%s", again)
	}

	h.must("add", "nat", "wan:8080/tcp+udp", "to", lab.Inside4+":80", "--name", "web")
	h.must("add", "share", "lan", "to", "wan", "--name", "masq")
	h.must("add", "nat", "192.168.1.77:80", "to", lab.Beside4+":8080", "claim", "--name", "lone")
	service := h.spec().start(t, "up")
	service.says("is up")
	c := s.mustCall()
	if _, stderr, code := h.run("uninstall"); code != exitInUse || !strings.Contains(stderr, "FL-805") {
		t.Errorf("while the service runs: exit code %d\n%s", code, stderr)
	}
	service.signal(syscall.SIGTERM)
	service.ends(exitOK)

	said = h.must("uninstall", "--dry-run")
	if !strings.Contains(said, "would remove table inet fairlead") || !strings.Contains(said, "would put back: sysctl -w net.ipv4.ip_forward=0") {
		t.Errorf("--dry-run says\n%s", said)
	}
	said = h.must("uninstall")
	if !strings.Contains(said, "kept: /etc/fairlead/fairlead.conf") || !strings.Contains(h.read("etc/fairlead/fairlead.conf"), "lone:") {
		t.Errorf("the configuration is not kept:\n%s", said)
	}
	h.must("uninstall", "--purge")
	if now := found(); now != before {
		t.Errorf("the machine is another one:\n%s", difference(before, now))
	}
	if err := exchange(c); err == nil {
		t.Error("a connection goes on through what was taken away")
	}
	if said = h.must("uninstall"); !strings.Contains(said, "nothing of fairlead is installed here") {
		t.Errorf("once more it says\n%s", said)
	}
	if now := found(); now != before {
		t.Errorf("the machine is another one:\n%s", difference(before, now))
	}
}

// A fake systemctl keeps which units are enabled and active in /run, writes down
// what it is called with, and fails where /run/fails says so. Whether systemd
// itself does what it is asked for is not tested here.
const fakeSystemctl = `#!/bin/sh
echo "$*" >>/run/calls
case "$1" in
is-enabled | is-active) test -e /run/${1#is-} ;;
*) if test -e /run/fails && test "$1" = "$(cat /run/fails)"; then echo "Job for $2 failed." >&2; exit 1; fi ;;
esac || exit
case "$*" in
'enable fairlead.service') touch /run/enabled ;;
'start fairlead.service' | 'restart fairlead.service') touch /run/active ;;
'disable fairlead.service') rm -f /run/enabled ;;
'stop fairlead.service') rm -f /run/active ;;
'disable --now fairlead.service') rm -f /run/enabled /run/active ;;
esac
`

// managed gives the home a systemctl and a systemd that seems to run.
func (h *home) managed() {
	h.t.Helper()
	if err := os.MkdirAll(h.dir+"/run/systemd/system", 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.dir+"/bin/systemctl", []byte(fakeSystemctl), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// asked are the changes that systemctl was asked for since the last time.
func (h *home) asked() string {
	h.t.Helper()
	lines := strings.Split(strings.TrimSpace(h.read("run/calls")), "\n")
	os.Remove(h.dir + "/run/calls")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "is-") }), ", ")
}

func TestInstallAsksSystemdForWhatItDoes(t *testing.T) {
	lab.NeedTool(t, "nft")
	h := newHome(t, lab.NewNet(t).Host("here"))
	h.managed()
	before := h.files()
	h.must("install", "--now")
	if got := h.asked(); got != "daemon-reload, enable fairlead.service, start fairlead.service" {
		t.Errorf("install: %s", got)
	}
	h.must("install")
	if got := h.asked(); got != "" {
		t.Errorf("a second time: %s", got)
	}
	h.append("etc/systemd/system/fairlead.service", "# mine\n")
	h.fails(exitFailed, `FL-811.*/etc/systemd/system/fairlead\.service is there already`, "install")
	h.must("install", "--force")
	if got := h.asked(); got != "daemon-reload, restart fairlead.service" {
		t.Errorf("with --force: %s", got)
	}
	h.must("uninstall")
	if got := h.asked(); got != "disable --now fairlead.service, daemon-reload" {
		t.Errorf("uninstall: %s", got)
	}
	if !strings.HasSuffix(h.read("etc/systemd/system/fairlead.service"), "# mine\n") {
		t.Error("the unit that --force replaced is not put back")
	}
	os.Remove(h.dir + "/etc/systemd/system/fairlead.service")
	if now := h.files(); now != before {
		t.Errorf("the files are others:\n%s", difference(before, now))
	}

	h.must("install", "--no-start")
	if got := h.asked(); got != "daemon-reload, enable fairlead.service" {
		t.Errorf("with --no-start: %s", got)
	}
	h.must("uninstall")
	h.asked()
	if now := h.files(); now != before {
		t.Errorf("the files are others:\n%s", difference(before, now))
	}
}

func TestAnInstallationThatFailsLeavesNothing(t *testing.T) {
	h := newHome(t, lab.NewNet(t).Host("here"))
	h.managed()
	for _, step := range []string{"daemon-reload", "enable", "start"} {
		write(t, h.dir+"/run/fails", step+"\n")
		before := h.files() + everything(t, h.host)
		h.fails(exitFailed, `FL-812`, "install", "--forwarding")
		h.asked()
		if now := h.files() + everything(t, h.host); now != before {
			t.Errorf("%s fails, and the machine is another one:\n%s", step, difference(before, now))
		}
	}
}

func TestInstallMakesTheUserAndUninstallRemovesIt(t *testing.T) {
	lab.NeedTool(t, "systemd-sysusers")
	lab.NeedTool(t, "userdel")
	lab.NeedTool(t, "nft")
	h := newHome(t, lab.NewNet(t).Host("here"))
	for _, name := range []string{"passwd", "group"} {
		text := h.read("etc/" + name)
		write(t, h.dir+"/etc/"+name, text[:strings.Index(text, "fairlead:")])
	}
	before := h.files()
	h.must("install")
	if !strings.Contains(h.read("etc/passwd"), "\nfairlead:") {
		t.Error("the user is not there")
	}
	if st, err := os.Stat(h.dir + "/etc/fairlead/fairlead.conf"); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("the file of forwards: %v (%v)", st.Mode(), err)
	} else if gid, _ := groupOf(st); !strings.Contains(h.read("etc/group"), fmt.Sprintf("fairlead:x:%d:", gid)) {
		t.Errorf("the file of forwards is group %d's", gid)
	}
	h.append("etc/fairlead/fairlead.conf", "web: forward 8080 to 10.0.0.1:80\n")
	if said := h.must("uninstall"); !strings.Contains(said, "kept: user and group fairlead") {
		t.Errorf("with a configuration that is kept it says\n%s", said)
	}
	h.must("uninstall", "--purge")
	if now := h.files(); now != before {
		t.Errorf("the files are others:\n%s", difference(before, now))
	}
}

func TestInstallRefusesWhatAServiceCouldNotUse(t *testing.T) {
	h := newHome(t, lab.NewNet(t).Host("here"))
	before := h.files()
	inTmp := h.spec()
	inTmp.before, inTmp.path = nil, ""
	p := inTmp.start(t, "install")
	p.ends(exitFailed)
	if p.stderr.count(`FL-810`) != 1 || p.stderr.count(`the service does not see what is in /tmp`) != 1 {
		t.Errorf("in /tmp it says\n%s", p.stderr)
	}
	nobody := inTmp
	nobody.before = []string{"nobody"}
	p = nobody.start(t, "install")
	p.ends(exitPermission)

	if err := os.Chmod(h.dir+"/bin/fairlead", 0o757); err != nil {
		t.Fatal(err)
	}
	h.fails(exitFailed, `FL-810.*everybody may write /usr/local/bin/fairlead`, "install")
	if err := os.Chmod(h.dir+"/bin/fairlead", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(h.dir+"/bin", 65534, -1); err != nil {
		t.Fatal(err)
	}
	h.fails(exitFailed, `FL-810.*/usr/local/bin belongs to another user`, "install")
	if err := os.Chown(h.dir+"/bin", 0, -1); err != nil {
		t.Fatal(err)
	}
	h.fails(exitFailed, `FL-810.*does not see what is in /home`, "install", "-c", "/home/me/fairlead.conf")
	h.fails(exitFailed, `FL-810.*systemd does not run`, "install", "--now")
	h.fails(exitUsage, `FL-901`, "install", "--now", "--no-start")
	if now := h.files(); now != before {
		t.Errorf("what was refused changed something:\n%s", difference(before, now))
	}

	if err := os.Mkdir(h.dir+"/etc/fairlead", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, h.dir+"/etc/fairlead/fairlead.conf", "web: forwrad 8080 to 10.0.0.1:80\n")
	h.fails(exitConfig, `FL-302`, "install")
}

// TestAnImageIsInstalledInto holds the units against those that are shipped.
func TestAnImageIsInstalledInto(t *testing.T) {
	lab.NeedRoot(t)
	dir := newDir(t)
	run := func(args ...string) (string, int) {
		p := spec{}.start(t, append(args, "--root", dir)...)
		<-p.done
		return p.stdout.String() + p.stderr.String(), p.cmd.ProcessState.ExitCode()
	}
	if said, code := run("install"); code != exitFailed || !strings.Contains(said, "FL-810") || !strings.Contains(said, dir+"/usr/bin/fairlead") {
		t.Errorf("without the program: %d, %s", code, said)
	}
	if err := os.MkdirAll(dir+"/usr/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/usr/bin/fairlead", "the program\n")
	before := contents(t, dir)
	said, code := run("install", "--forwarding", "--json")
	var doc installDoc
	if err := json.Unmarshal([]byte(said), &doc); code != exitOK || err != nil || doc.Schema != "fairlead/install/1" || doc.Binary != "/usr/bin/fairlead" || len(doc.Notes) != 1 {
		t.Fatalf("exit code %d (%v): %s", code, err, said)
	}
	for name, want := range map[string]string{
		"etc/systemd/system/fairlead.service": "../../packaging/systemd/fairlead.service",
		"etc/sysusers.d/fairlead.conf":        "../../packaging/systemd/fairlead.sysusers.conf",
		"etc/tmpfiles.d/fairlead.conf":        "../../packaging/systemd/fairlead.tmpfiles.conf",
	} {
		shipped, err := os.ReadFile(want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != string(shipped) {
			t.Errorf("%s is not what is shipped (%v):\n%s", name, err, got)
		}
	}
	if to, err := os.Readlink(dir + "/etc/systemd/system/multi-user.target.wants/fairlead.service"); err != nil || to != "/etc/systemd/system/fairlead.service" {
		t.Errorf("the service is not enabled: %q, %v", to, err)
	}
	if _, err := os.Stat(dir + "/etc/sysctl.d/50-fairlead.conf"); err != nil {
		t.Error(err)
	}
	said, code = run("uninstall", "--json")
	var undone uninstallDoc
	if err := json.Unmarshal([]byte(said), &undone); code != exitOK || err != nil || len(undone.Left)+len(undone.Kept) > 0 {
		t.Errorf("uninstall: exit code %d (%v)\n%s", code, err, said)
	}
	if now := contents(t, dir); now != before {
		t.Errorf("the image is another one:\n%s", difference(before, now))
	}
	// Nothing leads out of an image.
	if err := os.Symlink("/etc", dir+"/etc"); err != nil {
		t.Fatal(err)
	}
	if said, code := run("install"); code == exitOK {
		t.Errorf("it wrote through a link that leads out:\n%s", said)
	}
}
