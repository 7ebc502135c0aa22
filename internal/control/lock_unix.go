//go:build unix

package control

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockTime is longer than Listen holds its lock in the worst case.
const lockTime = 2*answerTime + time.Second

// lock takes the lock file at path and returns what gives it back. The file
// is only there while the lock is held.
func lock(path string) (unlock func(), err error) {
	for deadline := time.Now().Add(lockTime); ; time.Sleep(20 * time.Millisecond) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && stillThere(f, path) {
			return func() {
				os.Remove(path) // while it is locked, so that nobody else's goes
				f.Close()
			}, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
		}
		if time.Now().After(deadline) {
			return nil, errors.New("another service holds the lock " + path)
		}
	}
}

// stillThere reports whether f is the file at path: its last holder may have
// removed it between our opening and locking it.
func stillThere(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

// nobodyListens reports whether a dial found a socket without a listener.
func nobodyListens(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }
