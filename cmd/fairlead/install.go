package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"fairlead"
	"fairlead/internal/kernel"
	"fairlead/packaging/systemd"
)

// An installation is what install is asked to do.
type installation struct {
	forwarding, now, noStart, force, dry bool
	root                                 string
}

func (p *program) installCommand() *cobra.Command {
	var o installation
	c := &cobra.Command{
		Use:   "install",
		Short: "make fairlead a service of this machine, under systemd",
		Long: `Make fairlead a service of this machine: write the unit of systemd, which names
this program at the place where it is; make the user that it runs as; write
/etc/fairlead/fairlead.conf when there is none, with nothing in it but comments;
enable the service and start it.

--forwarding has the machine forward packets as well, now and after its next start
(/etc/sysctl.d/50-fairlead.conf): what "nat" and "share" need to lead packets to
other machines. Interfaces whose default route came by router advertisements go on
hearing them (accept_ra = 2). A machine that forwards is a router for everybody
whose packets reach it.

Each step is printed. A file that is there already and says something else is not
replaced without --force. When a step fails, those before it are undone. How
everything was before is remembered in /var/lib/fairlead-install.json; "fairlead
uninstall" puts it back.

The program has to be where nobody but root can replace it, and not in /home, /root
or /tmp, which the service does not see.

--root DIR is for those who build images: the same files below DIR, links in place
of systemctl, and nothing of the machine that builds is touched. The program has to
be in the image already.`,
		Example: "  sudo install -m 755 fairlead /usr/local/bin/ && sudo fairlead install\n" +
			"  sudo fairlead install --forwarding\n" +
			"  fairlead install --forwarding --dry-run",
		GroupID: groupProgram,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, args []string) error { return p.install(cmd, o) },
	}
	c.Flags().BoolVar(&o.forwarding, "forwarding", false, "have this machine forward packets, for good")
	c.Flags().BoolVar(&o.now, "now", false, "fail where systemd does not run, rather than say what is left to do")
	c.Flags().BoolVar(&o.noStart, "no-start", false, "enable the service for the next start of the machine, and do not start it now")
	c.Flags().BoolVar(&o.force, "force", false, "replace files that say something else (uninstall puts them back)")
	c.Flags().BoolVarP(&o.dry, "dry-run", "n", false, "only say what would be done")
	c.Flags().StringVar(&o.root, "root", "/", "a directory with the image of a system, instead of this one")
	return c
}

const (
	usualConfigPath = "/etc/fairlead/fairlead.conf"
	sysctlFile      = "/etc/sysctl.d/50-fairlead.conf"
	usersFile       = "/etc/sysusers.d/fairlead.conf"
	dirsFile        = "/etc/tmpfiles.d/fairlead.conf"

	// The paths in the unit as it is shipped.
	shippedProgram = "/usr/bin/fairlead"
)

const emptyConfig = `# The forwards of this machine, one a line, each behind a name. There is none yet.
#
#   web: forward :8080 to 192.168.1.10:80
#
#   fairlead add forward :8080 to HOST:PORT --name web    writes such a line, and carries it
#   fairlead validate                                     says what is wrong
#   fairlead help grammar                                 lists every word
`

// A step is one thing that is done to a machine.
type step struct {
	verb, past, what string // "write", "wrote", "/etc/fairlead/fairlead.conf"
	already          bool   // nothing is to be done
	do, undo         func() error
}

// An installDoc is what install prints for programs.
type installDoc struct {
	Schema string    `json:"schema"`
	Dry    bool      `json:"dry"`
	Binary string    `json:"binary"`
	Config string    `json:"config"`
	Steps  []stepDoc `json:"steps"`
	Notes  []string  `json:"notes"`
	Run    []string  `json:"run"` // commands that are left to be run
}

// A stepDoc is one step; its state is done, already or dry.
type stepDoc struct {
	Do    string `json:"do"`
	What  string `json:"what"`
	State string `json:"state"`
}

// An installer plans the steps, and then takes them.
type installer struct {
	installation
	t      *tree
	binary string // as the unit names them
	config string
	gid    int // the service's group; -1 as long as there is none

	old     *receipt // of an earlier installation, or nil
	receipt *receipt
	steps   []step
	changed bool // the unit is another one than before
	notes   []string
	run     []string
}

func (p *program) install(cmd *cobra.Command, o installation) error {
	dir, err := filepath.Abs(o.root)
	if err != nil {
		return err
	}
	o.root = dir
	switch {
	case runtime.GOOS != "linux":
		return fairlead.Problemf(fairlead.CodeNotInstallable, "only a service of systemd can be installed, and this is %s", runtime.GOOS).
			Fix("run it by the system's own service manager", "fairlead up")
	case dir == "/" && os.Geteuid() != 0 && !o.dry:
		return fairlead.Problemf(fairlead.CodePrivilege, "only root can install a service").Fix("be root", "sudo "+cmd.CommandPath())
	case o.now && o.noStart:
		return usage(cmd, "--now and --no-start are opposites")
	case dir != "/" && o.now:
		return usage(cmd, "--now and --root: nothing is started in an image")
	}
	t, err := openTree(dir)
	if err != nil {
		return err
	}
	defer t.close()
	in := &installer{installation: o, t: t, config: usualConfigPath}
	if p.config != "" {
		in.config = p.config
	}
	if err := in.plan(context.WithoutCancel(p.ctx)); err != nil {
		return err
	}
	done, err := in.take()
	if err != nil {
		return err
	}
	if p.json {
		return p.talk.JSON(in.document(done))
	}
	for _, s := range done {
		switch {
		case s.already:
			p.talk.Say("nothing to do: %s %s", s.verb, s.what)
		case o.dry:
			p.talk.Say("would %s %s", s.verb, s.what)
		default:
			p.talk.Say("%s %s", s.past, s.what)
		}
	}
	for _, n := range in.notes {
		p.talk.Say("note: %s", n)
	}
	for _, r := range in.run {
		p.talk.Offer("left to do", r)
	}
	if !o.dry {
		p.talk.Offer("undo", "sudo "+in.binary+" uninstall"+in.rootFlag())
	}
	return nil
}

func (in *installer) rootFlag() string {
	if in.t.image() {
		return " --root " + in.t.dir
	}
	return ""
}

func (in *installer) document(done []step) installDoc {
	doc := installDoc{"fairlead/install/1", in.dry, in.binary, in.config, []stepDoc{}, append([]string{}, in.notes...), append([]string{}, in.run...)}
	for _, s := range done {
		state := "done"
		if s.already {
			state = "already"
		} else if in.dry {
			state = "dry"
		}
		doc.Steps = append(doc.Steps, stepDoc{s.verb, s.what, state})
	}
	return doc
}

// plan looks at everything, and changes nothing.
func (in *installer) plan(ctx context.Context) error {
	running := !in.t.image() && managed()
	if in.now && !running {
		return fairlead.Problemf(fairlead.CodeNotInstallable, "systemd does not run this machine, so that nothing can be started").
			Fix("install, and start later", "fairlead install").
			Fix("without systemd", "fairlead up")
	}
	old, err := readReceipt(in.t)
	if err != nil {
		return fairlead.Problemf(fairlead.CodeNotInstallable, "an earlier installation: %v", err)
	}
	in.old, in.receipt = old, &receipt{Schema: receiptSchema}
	if old != nil {
		in.receipt = old.clone()
	}
	if err := in.place(); err != nil {
		return err
	}
	in.receipt.Config = in.config
	in.mkdirs(receiptPath, 0o755)
	if err := in.user(ctx); err != nil {
		return err
	}
	for _, plan := range []func() error{in.planConfig, in.planUnit, in.planForwarding} {
		if err := plan(); err != nil {
			return err
		}
	}
	if running {
		in.planManager(ctx)
		return nil
	}
	if !in.t.image() {
		in.run = append(in.run, map[bool]string{false: "systemctl enable --now fairlead", true: "systemctl enable fairlead"}[in.noStart])
		in.notes = append(in.notes, "systemd does not run this machine now, so that the service is neither enabled nor started")
		return nil
	}
	return in.file(wantPath, arrow+unitPath, 0, false)
}

// unquoted are paths that a unit can name as they are.
var unquoted = regexp.MustCompile(`^/[A-Za-z0-9/._+@-]*$`)

// place finds the program and the file, as the service will, and refuses what it
// could not use or what others could replace.
func (in *installer) place() error {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return fairlead.Problemf(fairlead.CodeNotInstallable, "where this program is cannot be found out: %v", err)
	}
	in.binary = self
	if in.t.image() {
		rel, err := filepath.Rel(in.t.dir, self)
		in.binary = ""
		for _, c := range []string{"/" + rel, shippedProgram, "/usr/local/bin/fairlead"} {
			if (c != "/"+rel || err == nil && filepath.IsLocal(rel)) && in.t.exists(c) {
				in.binary = c
				break
			}
		}
		if in.binary == "" {
			return fairlead.Problemf(fairlead.CodeNotInstallable, "there is no fairlead in %s", in.t.dir).
				Fix("put the program there first", "install -D -m 755 "+self+" "+in.t.shown(shippedProgram))
		}
	}
	if why := unfit(in.t, in.binary); why != "" {
		fix := "sudo install -m 755 " + self + " /usr/local/bin/fairlead && sudo /usr/local/bin/fairlead install"
		if in.t.image() {
			fix = "install -D -m 755 " + self + " " + in.t.shown(shippedProgram)
		}
		return fairlead.Problemf(fairlead.CodeNotInstallable, "%s cannot be the program of a service: %s", in.binary, why).
			Fix("put it where programs are", fix)
	}

	if in.config, err = filepath.Abs(in.config); err != nil {
		return err
	}
	if why := unfit(in.t, in.config); why != "" {
		return fairlead.Problemf(fairlead.CodeNotInstallable, "%s cannot be the file of a service: %s", in.config, why).
			Fix("leave it at the usual place", "sudo fairlead install")
	}
	return nil
}

// unfit says why the service could not use a file, or nobody should have it use
// that; "" when all is well. The file need not be there.
func unfit(t *tree, name string) string {
	if !unquoted.MatchString(name) {
		return "its path has characters that a unit does not take as they are"
	}
	for _, hidden := range []string{"/home", "/root", "/run/user", "/tmp", "/var/tmp", "/dev", "/proc", "/sys"} {
		if strings.HasPrefix(name, hidden+"/") {
			return "the service does not see what is in " + hidden
		}
	}
	for dir := name; ; dir = path.Dir(dir) {
		st, err := t.stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && st.Mode()&fs.ModeSymlink != 0:
		case err != nil:
			return err.Error()
		case st.Mode()&0o002 != 0:
			return "everybody may write " + t.shown(dir)
		case !ownFile(st):
			return t.shown(dir) + " belongs to another user than root, who could replace it"
		}
		if dir == "/" {
			return ""
		}
	}
}

func (in *installer) add(s step) { in.steps = append(in.steps, s) }

// mkdirs plans the directories above name that are not there yet. A failure
// removes them again when everything else is gone.
func (in *installer) mkdirs(name string, mode fs.FileMode) {
	for _, dir := range in.t.missing(name) {
		if slices.ContainsFunc(in.steps, func(s step) bool { return s.what == in.t.shown(dir) }) {
			continue
		}
		if !slices.Contains(in.receipt.Dirs, dir) {
			in.receipt.Dirs = append(in.receipt.Dirs, dir)
		}
		in.add(step{verb: "make", past: "made", what: in.t.shown(dir),
			do: func() error {
				if dir == path.Dir(usualConfigPath) {
					return in.t.mkdir(dir, 0o755|fs.ModeSetgid, in.gid) // new files are the group's too
				}
				return in.t.mkdir(dir, mode, -1)
			}})
	}
}

// user plans the user and the group of the service. In an image the first start
// of the system makes them, by the file.
func (in *installer) user(ctx context.Context) error {
	if in.t.image() {
		in.gid = groupIn(in.t)
		if err := in.file(usersFile, systemd.Users, 0o644, false); err != nil {
			return err
		}
		return in.file(dirsFile, systemd.Directories, 0o644, false)
	}
	there, gid := serviceUser()
	in.gid = gid
	s := step{verb: "make", past: "made", what: "user and group " + serviceGroup, already: there && gid >= 0,
		do: func() error {
			if err := makeUser(ctx); err != nil {
				return err
			}
			if in.gid = groupNumber(); in.gid < 0 {
				return fmt.Errorf("there is no group %s yet", serviceGroup)
			}
			return nil
		}}
	if !there && gid < 0 {
		in.receipt.User = true
		s.undo = func() error { return dropUser(ctx) }
	}
	in.add(s)
	return nil
}

// groupIn is the service's group in an image, -1 where it has none.
func groupIn(t *tree) int {
	text, _, _ := t.read("/etc/group")
	for line := range strings.Lines(text) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[0] == serviceGroup {
			if n, err := strconv.Atoi(f[2]); err == nil {
				return n
			}
		}
	}
	return -1
}

// planConfig plans an empty configuration where there is none. One that is there
// has to be right, or nothing would start.
func (in *installer) planConfig() error {
	shown := in.t.shown(in.config)
	_, ok, err := in.t.read(in.config)
	if err != nil {
		return unreadable(shown, err)
	}
	if !ok {
		mode := fs.FileMode(0o640)
		if in.t.image() && in.gid < 0 {
			mode = 0o644 // whom else it is for, nobody knows yet
		}
		in.mkdirs(in.config, 0o755)
		in.receipt.wrote(in.config, emptyConfig, nil, 0)
		in.add(step{verb: "write", past: "wrote", what: shown + ", with no forward in it",
			do:   func() error { return in.t.write(in.config, emptyConfig, mode, in.gid) },
			undo: func() error { return in.t.remove(in.config) }})
		return nil
	}
	in.add(step{verb: "write", past: "wrote", what: shown, already: true})
	if !in.t.image() { // what it includes, and names, is another machine's
		_, problems := load(in.config)
		if err := onlyWarnings(problems); err != nil {
			return err
		}
	}
	if st, err := in.t.root.Stat(in.t.at(in.config)); err == nil && st.Mode()&0o004 == 0 && !(in.t.image() && in.gid < 0) {
		gid, known := groupOf(st)
		if known && (st.Mode()&0o040 == 0 || in.gid < 0 || gid != in.gid) {
			in.notes = append(in.notes, shown+" may not be read by the service's group")
			in.run = append(in.run, "chgrp "+serviceGroup+" "+shown+" && chmod g+r "+shown)
		}
	}
	return nil
}

// unitFor is the unit that is shipped, with the paths of this program and file.
func unitFor(binary, config string) string {
	return strings.NewReplacer("="+shippedProgram+" ", "="+binary+" ", "--config "+usualConfigPath+" ", "--config "+config+" ").Replace(systemd.Unit)
}

func (in *installer) planUnit() error {
	text := unitFor(in.binary, in.config)
	for _, dir := range []string{"/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		packaged := path.Join(dir, unitName)
		now, ok, err := in.t.read(packaged)
		if err != nil || !ok || in.force || in.t.exists(unitPath) {
			continue
		}
		if now == text {
			in.add(step{verb: "write", past: "wrote", what: in.t.shown(packaged), already: true})
			return nil
		}
		return in.inTheWay(packaged)
	}
	return in.file(unitPath, text, 0o644, true)
}

func (in *installer) inTheWay(name string) error {
	return fairlead.Problemf(fairlead.CodeInTheWay, "%s is there already, and says something else", in.t.shown(name)).
		Fix("see what it says", "cat "+in.t.shown(name)).
		Fix("have it replaced; uninstall puts it back", "sudo fairlead install --force")
}

// file plans a file, or a link.
func (in *installer) file(name, text string, mode fs.FileMode, unit bool) error {
	shown := in.t.shown(name)
	now, ok, err := in.t.read(name)
	if err != nil {
		return unreadable(shown, err)
	}
	if ok && now == text {
		in.receipt.wrote(name, text, nil, 0)
		in.add(step{verb: "write", past: "wrote", what: shown, already: true})
		return nil
	}
	var was *string
	var wasMode fs.FileMode
	if ok {
		st, err := in.t.stat(name)
		if err != nil {
			return unreadable(shown, err)
		}
		was, wasMode = &now, st.Mode().Perm()
		own := in.old != nil && in.old.file(name) != nil && in.old.file(name).Sum == sumOf(now)
		if !own && !in.force {
			return in.inTheWay(name)
		}
	}
	in.mkdirs(name, 0o755)
	in.receipt.wrote(name, text, was, wasMode)
	in.changed = in.changed || unit
	in.add(step{verb: "write", past: "wrote", what: shown,
		do: func() error { return in.t.write(name, text, mode, -1) },
		undo: func() error {
			if was != nil {
				return in.t.write(name, *was, wasMode, -1)
			}
			return in.t.remove(name)
		}})
	return nil
}

// planForwarding plans the parameters and the file that makes them last.
func (in *installer) planForwarding() error {
	if !in.forwarding {
		return nil
	}
	var f kernel.Forwarding
	if in.t.image() {
		in.notes = append(in.notes, "an interface that gets its default route from router advertisements needs accept_ra = 2 beside forwarding; which ones those are is not known of an image")
	} else {
		var err error
		if f, err = kernel.ReadForwarding(); err != nil {
			return fairlead.Problemf(fairlead.CodeInstallFailed, "whether this host forwards cannot be found out: %v", err)
		}
	}
	if err := in.file(sysctlFile, f.File(), 0o644, false); err != nil {
		return err
	}
	in.receipt.changes(f.Undo)
	for i, set := range f.Set {
		s := step{verb: "set", past: "set", what: set.Key + " = " + set.Value,
			do: func() error { return nil }}
		if i == 0 { // all of them, in the order that the kernel needs
			s.do = f.Apply
			s.undo = func() error { _, err := kernel.PutBack(f.Undo); return err }
		}
		in.add(s)
	}
	if len(f.Set) == 0 && !in.t.image() {
		in.add(step{verb: "set", past: "set", what: "net.ipv4.ip_forward and net.ipv6.conf.all.forwarding", already: true})
	}
	for _, link := range f.Elsewhere {
		in.notes = append(in.notes, fmt.Sprintf("the default route of %s comes from router advertisements that the network's manager reads: see that it goes on doing so (systemd-networkd: IPv6AcceptRA=yes)", link))
	}
	return nil
}

// planManager plans what systemd is asked for.
func (in *installer) planManager(ctx context.Context) {
	if in.changed {
		in.add(step{verb: "have", past: "had", what: "systemd read its units again",
			do: func() error { return systemctl(ctx, "daemon-reload") }})
	}
	in.add(step{verb: "enable", past: "enabled", what: unitName, already: unitIs(ctx, "enabled"),
		do:   func() error { return systemctl(ctx, "enable", unitName) },
		undo: func() error { return systemctl(ctx, "disable", unitName) }})
	if in.noStart {
		return
	}
	if unitIs(ctx, "active") {
		in.add(step{verb: "restart", past: "restarted", what: unitName, already: !in.changed,
			do: func() error { return systemctl(ctx, "restart", unitName) }})
		return
	}
	in.add(step{verb: "start", past: "started", what: unitName,
		do: func() error {
			err := systemctl(ctx, "start", unitName)
			if err != nil { // it would be tried again every second
				systemctl(ctx, "stop", unitName)
			}
			return err
		},
		undo: func() error { return systemctl(ctx, "stop", unitName) }})
}

// take does what was planned, all of it or nothing.
func (in *installer) take() ([]step, error) {
	if in.dry {
		return in.steps, nil
	}
	begun := false
	for i, s := range in.steps {
		if s.already {
			continue
		}
		if !begun && len(in.t.missing(receiptPath)) == 0 {
			if err := in.receipt.write(in.t); err != nil {
				return nil, in.failed(in.steps[:i], "remember", in.t.shown(receiptPath), err)
			}
			begun = true
		}
		if err := s.do(); err != nil {
			return nil, in.failed(in.steps[:i], s.verb, s.what, err)
		}
	}
	if !begun { // all is there: it is ours from now on
		if err := in.receipt.write(in.t); err != nil {
			return nil, in.failed(in.steps, "remember", in.t.shown(receiptPath), err)
		}
	}
	return in.steps, nil
}

// failed undoes the steps that were taken, and says what failed.
func (in *installer) failed(taken []step, verb, what string, err error) error {
	problem := fairlead.Problemf(fairlead.CodeInstallFailed, "could not %s %s: %v", verb, what, err)
	problem.Err = err
	var left []error
	for _, s := range slices.Backward(taken) {
		if s.already || s.undo == nil {
			continue
		}
		if err := s.undo(); err != nil {
			left = append(left, fmt.Errorf("%s: %w", s.what, err))
		}
	}
	if !in.t.image() && managed() && in.changed {
		if err := systemctl(context.Background(), "daemon-reload"); err != nil {
			problem.Note("note", "systemd still knows the unit: %v", err)
		}
	}
	if len(left) > 0 {
		return problem.Note("left", "not everything was undone: %v", errors.Join(left...)).Fix("undo the rest", "sudo fairlead uninstall"+in.rootFlag())
	}
	if in.old != nil {
		err = in.old.write(in.t)
	} else {
		err = in.t.remove(receiptPath)
	}
	if err != nil {
		problem.Note("left", "%s: %v", in.t.shown(receiptPath), err)
	}
	for _, dir := range slices.Backward(in.receipt.Dirs) {
		if in.old == nil || !slices.Contains(in.old.Dirs, dir) {
			in.t.remove(dir) // the steps made it; one that is not empty stays
		}
	}
	if verb == "start" || verb == "restart" {
		problem.Fix("see what it said", "journalctl -u fairlead -n 20")
	}
	return problem
}
