package relay_test

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// header is the beginning of control data, and where its value is.
func header(oob []byte) (*unix.Cmsghdr, *uint16) {
	return (*unix.Cmsghdr)(unsafe.Pointer(&oob[0])), (*uint16)(unsafe.Pointer(&oob[unix.CmsgLen(0)]))
}
