package main

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// A tree is where something is installed: this machine, or the directory of an
// image. Names are absolute paths within it. In an image nothing leads out, no
// symbolic link either.
type tree struct {
	dir  string // "/" is this machine
	root *os.Root
}

func openTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &tree{dir, root}, nil
}

func (t *tree) close() { t.root.Close() }

func (t *tree) image() bool { return t.dir != "/" }

// at is name as the root knows it. On this machine links in the way to it are
// followed, wherever they lead.
func (t *tree) at(name string) string {
	if !t.image() {
		dir, rest := path.Dir(name), path.Base(name)
		for dir != "/" {
			if real, err := filepath.EvalSymlinks(dir); err == nil {
				dir = real
				break
			}
			dir, rest = path.Dir(dir), path.Join(path.Base(dir), rest)
		}
		name = path.Join(dir, rest)
	}
	if name == "/" {
		return "."
	}
	return strings.TrimPrefix(name, "/")
}

// shown is name as the operator finds it.
func (t *tree) shown(name string) string { return filepath.Join(t.dir, name) }

func (t *tree) stat(name string) (fs.FileInfo, error) { return t.root.Lstat(t.at(name)) }

func (t *tree) exists(name string) bool {
	_, err := t.stat(name)
	return err == nil
}

// read is the text of a file; of a symbolic link it is where that leads, behind
// an arrow. ok says whether there is something.
func (t *tree) read(name string) (text string, ok bool, err error) {
	st, err := t.stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		to, err := t.root.Readlink(t.at(name))
		return arrow + to, true, err
	}
	b, err := t.root.ReadFile(t.at(name))
	return string(b), true, err
}

// arrow begins what read and write mean as a symbolic link. No file of ours
// begins so.
const arrow = "-> "

// write puts a file in its place as a whole, or a symbolic link. gid is -1 for
// root's group. The directory is there.
func (t *tree) write(name, text string, mode fs.FileMode, gid int) (err error) {
	at := t.at(name)
	beside := path.Join(path.Dir(at), "."+path.Base(at)+".new")
	if err := t.root.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer func() {
		if err != nil {
			t.root.Remove(beside)
		}
	}()
	if to, ok := strings.CutPrefix(text, arrow); ok {
		if err := t.root.Symlink(to, beside); err != nil {
			return err
		}
		return t.root.Rename(beside, at)
	}
	f, err := t.root.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if gid >= 0 {
		err = errors.Join(err, f.Chown(-1, gid))
	}
	err = errors.Join(err, f.Chmod(mode), f.Sync())
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = t.root.Rename(beside, at); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Join(t.dir, at)))
}

// remove removes a file, a link or an empty directory. What is not there is no
// error.
func (t *tree) remove(name string) error {
	if err := t.root.Remove(t.at(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (t *tree) removeAll(name string) error { return t.root.RemoveAll(t.at(name)) }

// missing are the directories above name that are not there, the highest first.
func (t *tree) missing(name string) []string {
	var list []string
	for dir := path.Dir(name); dir != "/" && !t.exists(dir); dir = path.Dir(dir) {
		list = append([]string{dir}, list...)
	}
	return list
}

func (t *tree) mkdir(name string, mode fs.FileMode, gid int) error {
	at := t.at(name)
	if err := t.root.Mkdir(at, 0o755); err != nil {
		return err
	}
	if gid >= 0 {
		if err := t.root.Chown(at, -1, gid); err != nil {
			return err
		}
	}
	return t.root.Chmod(at, mode) // whatever the umask is
}
