package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"fairlead"
)

// changeFile replaces path by what edit makes of it, as a whole or not at
// all: a new file is written beside it, synced, and renamed. Owner and mode
// stay. Of two that change it at a time, the second waits. A missing file is
// begun as an empty one.
func changeFile(path string, edit func(src []byte) ([]byte, error)) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return unwritable(path, err)
	}
	unlock, err := lockFile(path)
	if err != nil {
		return unwritable(path, err)
	}
	defer unlock()
	src, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unreadable(path, err)
	}
	out, err := edit(src)
	if err != nil {
		return err
	}
	if err := replaceFile(path, out); err != nil {
		return unwritable(path, err)
	}
	return nil
}

func replaceFile(path string, data []byte) (err error) {
	mode := fs.FileMode(0o640)
	old, statErr := os.Stat(path)
	if statErr == nil {
		mode = old.Mode().Perm()
	}
	// One fixed name, under the lock: what a killed writer left is overwritten.
	beside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync())
	if statErr == nil {
		err = errors.Join(err, keepOwner(f, old))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the new name last through a power failure.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil // some file systems cannot, and the rename stands
	}
	return nil
}

func unwritable(path string, err error) *fairlead.Problem {
	problem := fairlead.Problemf(fairlead.CodeUnwritable, "cannot write %s: %v", path, plain(err))
	problem.Err = err
	return problem
}

// plain is err without the operation and the path around it.
func plain(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return fmt.Errorf("%w", err)
}
