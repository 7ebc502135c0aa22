package lab

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
)

// A Stream is an endless sequence of bytes, another one for each value. Each
// byte depends on its position, so that data that is lost, doubled, moved or
// taken from another stream does not pass for the right one.
type Stream uint64

// A stream is blocks, each a window into one table of random bytes; which
// window follows from the stream and the block's number. That costs a memory
// copy where a generator would slow the tests down under the race detector.
const (
	streamBlock = 1 << 10
	streamTable = 1 << 20
)

var streamBytes = sync.OnceValue(func() []byte {
	table := make([]byte, streamTable)
	rand.NewChaCha8([32]byte{'f', 'a', 'i', 'r', 'l', 'e', 'a', 'd'}).Read(table)
	return table
})

// ReadAt fills p with the bytes that begin at position off. It never fails.
func (s Stream) ReadAt(p []byte, off int64) (int, error) {
	table := streamBytes()
	for n := 0; n < len(p); {
		block, in := uint64(off)/streamBlock, uint64(off)%streamBlock
		at := mix(uint64(s)+mix(block))%(streamTable-streamBlock) + in
		m := copy(p[n:], table[at:at+streamBlock-in])
		n, off = n+m, off+int64(m)
	}
	return len(p), nil
}

// Bytes returns the first n bytes.
func (s Stream) Bytes(n int) []byte {
	p := make([]byte, n)
	s.ReadAt(p, 0)
	return p
}

// Check compares p with the bytes that begin at off, and says where the first
// difference is. It uses scratch, which must be as long as p.
func (s Stream) Check(p []byte, off int64, scratch []byte) error {
	want := scratch[:len(p)]
	s.ReadAt(want, off)
	if bytes.Equal(p, want) {
		return nil
	}
	i := 0
	for p[i] == want[i] {
		i++
	}
	end := min(i+16, len(p))
	return fmt.Errorf("byte %d differs: got % x, want % x", off+int64(i), p[i:end], want[i:end])
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
