package service

import (
	"os"
	"syscall"
)

// isFile says whether f is the file of that device and inode.
func isFile(f *os.File, dev, inode uint64) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && uint64(st.Dev) == dev && st.Ino == inode
}
