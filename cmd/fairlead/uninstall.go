package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"fairlead"
	"fairlead/internal/kernel"
)

func (p *program) uninstallCommand() *cobra.Command {
	var purge, dry bool
	root := "/"
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "take the service off this machine, and leave that as it was found",
		Long: `Undo "fairlead install": stop the service and disable it; do what "fairlead clean"
does, so that nothing of fairlead is left in the kernel; put parameters back as they
were, but those that somebody else set since; remove the unit and the other files,
and put back what they took the place of.

What was written since stays, and is named: a configuration that has forwards, what
the service keeps (certificates), and with them the user that may read them.
--purge removes these as well. The program itself stays where it is.

It can be run again, and then has nothing to do. With --root DIR it undoes an
installation in an image, below DIR, and touches nothing else.`,
		GroupID: groupProgram,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, args []string) error { return p.uninstall(cmd, root, purge, dry) },
	}
	c.Flags().BoolVar(&purge, "purge", false, "remove the configuration and what the service keeps as well")
	c.Flags().BoolVarP(&dry, "dry-run", "n", false, "only say what would be done")
	c.Flags().StringVar(&root, "root", "/", "a directory with the image of a system, instead of this one")
	return c
}

// An uninstallDoc is what uninstall prints for programs.
type uninstallDoc struct {
	Schema  string   `json:"schema"`
	Dry     bool     `json:"dry"`
	Removed []string `json:"removed"`  // files, directories, the user
	Tables  []string `json:"tables"`   // of the kernel
	PutBack []string `json:"put_back"` // commands that say the same, and files
	Cut     int      `json:"cut"`      // connections
	Kept    []string `json:"kept"`     // on purpose: --purge removes it
	Left    []string `json:"left"`     // what could not be done, with the reason
}

// An uninstaller undoes an installation.
type uninstaller struct {
	t          *tree
	purge, dry bool
	receipt    *receipt // never nil
	found      bool     // there is a receipt
	doc        uninstallDoc
}

func (p *program) uninstall(cmd *cobra.Command, root string, purge, dry bool) error {
	dir, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	if dir == "/" && os.Geteuid() != 0 && !dry {
		return fairlead.Problemf(fairlead.CodePrivilege, "only root can uninstall a service").Fix("be root", "sudo "+cmd.CommandPath())
	}
	t, err := openTree(dir)
	if err != nil {
		return err
	}
	defer t.close()
	u := &uninstaller{t: t, purge: purge, dry: dry, doc: uninstallDoc{
		Schema: "fairlead/uninstall/1", Dry: dry,
		Removed: []string{}, Tables: []string{}, PutBack: []string{}, Kept: []string{}, Left: []string{},
	}}
	r, err := readReceipt(t)
	if err != nil {
		return fairlead.Problemf(fairlead.CodeInstallFailed, "what install did is not known: %v", err).
			Fix("take everything out of the kernel", "sudo fairlead clean")
	}
	u.receipt, u.found = r, r != nil
	if r == nil {
		u.receipt = &receipt{Schema: receiptSchema, Config: usualConfigPath}
		u.byHand()
	}
	ctx := context.WithoutCancel(p.ctx)
	if !t.image() {
		if err := p.silence(ctx, u); err != nil {
			return err
		}
	}
	u.putBack()
	u.files()
	u.keepings()
	u.user(ctx)
	u.forget(ctx)

	if p.json {
		if err := p.talk.JSON(u.doc); err != nil {
			return err
		}
		return partly(len(u.doc.Left) > 0)
	}
	u.say(p)
	return partly(len(u.doc.Left) > 0)
}

func (u *uninstaller) say(p *program) {
	removed, put, cut := "removed", "put back", "cut"
	if u.dry {
		removed, put, cut = "would remove", "would put back", "would be cut"
	}
	for _, t := range u.doc.Tables {
		p.talk.Say("%s table inet %s", removed, t)
	}
	if u.doc.Cut > 0 {
		p.talk.Say("connections %s: %d", cut, u.doc.Cut)
	}
	for _, b := range u.doc.PutBack {
		p.talk.Say("%s: %s", put, b)
	}
	for _, r := range u.doc.Removed {
		p.talk.Say("%s %s", removed, r)
	}
	if len(u.doc.Tables)+len(u.doc.PutBack)+len(u.doc.Removed) == 0 {
		p.talk.Say("nothing of fairlead is installed here")
	}
	for _, k := range u.doc.Kept {
		p.talk.Say("kept: %s", k)
	}
	if len(u.doc.Kept) > 0 {
		flag := ""
		if u.t.image() {
			flag = " --root " + u.t.dir
		}
		p.talk.Offer("remove these as well", "sudo fairlead uninstall --purge"+flag)
	}
	for _, l := range u.doc.Left {
		p.talk.Say("left: %s", l)
	}
}

func (u *uninstaller) left(format string, args ...any) {
	u.doc.Left = append(u.doc.Left, fmt.Sprintf(format, args...))
}

// byHand finds a unit that was put there without install, and is ours all the same.
func (u *uninstaller) byHand() {
	text, ok, err := u.t.read(unitPath)
	if err != nil || !ok {
		return
	}
	m := unitCommand.FindStringSubmatch(text)
	if m == nil || text != unitFor(m[1], m[2]) {
		u.left("%s: it is not as fairlead writes it, so somebody else did", u.t.shown(unitPath))
		return
	}
	u.receipt.wrote(unitPath, text, nil, 0)
}

// silence ends the service, and takes what it did out of the kernel.
func (p *program) silence(ctx context.Context, u *uninstaller) error {
	if managed() && u.t.exists(unitPath) {
		if !u.dry {
			if err := systemctl(ctx, "disable", "--now", unitName); err != nil {
				return &fairlead.Problem{Code: fairlead.CodeInstallFailed, What: "the service could not be stopped, so that nothing was undone: " + err.Error(), Err: err}
			}
		}
		u.doc.Removed = append(u.doc.Removed, "the service from what runs, and from what starts with the machine")
	}
	if !u.dry {
		asked, cancel := p.patience()
		defer cancel()
		if v, err := p.service().Version(asked); err == nil {
			return fairlead.Problemf(fairlead.CodeServiceRunning, "a service runs (pid %d) that systemd did not start: it would load its table again", v.PID).
				Fix("end it first", fmt.Sprintf("sudo kill %d", v.PID))
		}
	}
	c, err := kernel.Clean(ctx, p.keepDir(), u.dry)
	if err != nil { // what it cannot look into it changed nothing in either, here
		u.left("the kernel: %v", err)
		return nil
	}
	u.doc.Tables, u.doc.PutBack, u.doc.Cut = c.Tables, c.PutBack, c.Cut
	u.doc.Left = append(u.doc.Left, c.Left...)
	return nil
}

// putBack puts parameters back.
func (u *uninstaller) putBack() {
	if u.t.image() {
		return
	}
	left, err := u.receipt.Undo, error(nil)
	if !u.dry {
		left, err = kernel.PutBack(u.receipt.Undo)
	}
	for _, r := range slices.Backward(u.receipt.Undo) {
		if u.dry || !slices.ContainsFunc(left, func(l kernel.Undo) bool { return l.Sysctl == r.Sysctl }) {
			u.doc.PutBack = append(u.doc.PutBack, r.String())
		}
	}
	if err != nil {
		u.left("%v", err)
	}
	if !u.dry {
		u.receipt.Undo = left
	}
}

// files removes what was written, where it is still what was written.
func (u *uninstaller) files() {
	var stay []receiptFile
	for _, f := range slices.Backward(u.receipt.Files) {
		if u.file(f) {
			stay = append(stay, f)
		}
	}
	slices.Reverse(stay)
	u.receipt.Files = stay
	// A link that "systemctl enable" made where systemd did not run since.
	if to, ok, _ := u.t.read(wantPath); ok && (to == arrow+unitPath || to == arrow+"../"+unitName) && !u.t.exists(unitPath) && !u.dry {
		if err := u.t.remove(wantPath); err != nil {
			u.left("%v", err)
		} else {
			u.doc.Removed = append(u.doc.Removed, u.t.shown(wantPath))
		}
	}
}

// file removes one, and reports whether it has to be remembered.
func (u *uninstaller) file(f receiptFile) (stays bool) {
	shown := u.t.shown(f.Path)
	now, ok, err := u.t.read(f.Path)
	config := f.Path == u.receipt.Config
	switch {
	case err != nil:
		u.left("%v", err)
		return true
	case !ok:
		return false
	case sumOf(now) != f.Sum && config && !u.purge:
		u.doc.Kept = append(u.doc.Kept, shown)
		return true
	case sumOf(now) != f.Sum && !u.purge:
		u.doc.Kept = append(u.doc.Kept, shown+", which was changed since it was written")
		return true
	}
	if !u.dry {
		if f.Was != nil {
			err = u.t.write(f.Path, *f.Was, f.Mode, -1)
		} else {
			err = u.t.remove(f.Path)
		}
	}
	switch {
	case err != nil:
		u.left("%v", err)
		return true
	case f.Was != nil:
		u.doc.PutBack = append(u.doc.PutBack, shown)
	default:
		u.doc.Removed = append(u.doc.Removed, shown)
	}
	return false
}

// keepings are the directories that fill while fairlead is in use: its
// configuration and its state. Their names are fixed: nothing that the
// environment says leads to a removal.
func (u *uninstaller) keepings() {
	const state = "/var/lib/fairlead"
	installed := u.found || len(u.doc.Removed) > 0
	for _, dir := range []string{path.Dir(usualConfigPath), state} {
		st, err := u.t.stat(dir)
		if err != nil || !st.IsDir() || !installed && !u.purge {
			continue
		}
		list, err := fs.ReadDir(u.t.root.FS(), u.t.at(dir))
		if err != nil {
			u.left("%v", err)
			continue
		}
		list = slices.DeleteFunc(list, func(e fs.DirEntry) bool {
			undo, _ := path.Match("undo-*.json", e.Name())                                                // what Clean puts back
			return u.dry && (undo || slices.Contains(u.doc.Removed, u.t.shown(path.Join(dir, e.Name())))) // gone by then
		})
		shown := u.t.shown(dir)
		switch {
		case u.purge, len(list) == 0 && (dir == state || slices.Contains(u.receipt.Dirs, dir)):
			if !u.dry {
				err = u.t.removeAll(dir)
			}
			if err != nil {
				u.left("%v", err)
			} else {
				u.doc.Removed = append(u.doc.Removed, shown)
			}
		case len(list) > 0 && dir == state:
			u.doc.Kept = append(u.doc.Kept, shown+", what the service keeps")
		}
	}
	if run := path.Dir(systemSocket); installed && !u.dry && !u.t.image() && u.t.exists(run) {
		if err := u.t.remove(run); err == nil { // of a service that systemd did not start; else in use
			u.doc.Removed = append(u.doc.Removed, run)
		}
	}
	if u.purge {
		u.receipt.Files = slices.DeleteFunc(u.receipt.Files, func(f receiptFile) bool { return !u.t.exists(f.Path) })
	}
}

// user removes the user that install made, unless something of its is kept.
func (u *uninstaller) user(ctx context.Context) {
	if !u.receipt.User || u.t.image() {
		return
	}
	if len(u.doc.Kept) > 0 {
		u.doc.Kept = append(u.doc.Kept, "user and group "+serviceGroup+", who may read that")
		return
	}
	if !u.dry {
		if err := dropUser(ctx); err != nil {
			u.left("%v", err)
			return
		}
		u.receipt.User = false
	}
	u.doc.Removed = append(u.doc.Removed, "user and group "+serviceGroup)
}

// forget writes down what is left to be undone, and when that is nothing
// removes the directories that were made.
func (u *uninstaller) forget(ctx context.Context) {
	if u.dry {
		return
	}
	if u.found && !u.t.image() && managed() {
		if err := systemctl(ctx, "daemon-reload"); err != nil {
			u.left("%v", err)
		}
	}
	dirs := u.receipt.Dirs
	if u.receipt.Dirs = nil; len(u.receipt.Files)+len(u.receipt.Undo) > 0 || u.receipt.User {
		u.receipt.Dirs = dirs // those above what is left are asked for again
	}
	if u.found {
		if err := u.receipt.write(u.t); err != nil {
			u.left("%v", err)
		}
	}
	for _, dir := range slices.Backward(dirs) {
		if !u.t.exists(dir) {
			continue
		}
		if err := u.t.remove(dir); err == nil { // else somebody has something in it by now
			u.doc.Removed = append(u.doc.Removed, u.t.shown(dir))
		}
	}
}
