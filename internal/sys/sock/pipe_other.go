//go:build !linux

package sock

import "errors"

// Splices says that data can pass between sockets without entering this
// process.
const Splices = false

// A Pipe does not exist on this system.
type Pipe struct{}

// Pipes is always empty on this system: the caller copies.
type Pipes struct{}

// NewPipes is an empty stock.
func NewPipes(n int) *Pipes { return &Pipes{} }

// Get returns nil.
func (s *Pipes) Get() *Pipe { return nil }

// Put does nothing.
func (s *Pipes) Put(p *Pipe) {}

// Close does nothing.
func (s *Pipes) Close() {}

// Fill is refused.
func (p *Pipe) Fill(fd uintptr) (int, error) { return 0, errors.ErrUnsupported }

// Drain is refused.
func (p *Pipe) Drain(fd uintptr) error { return errors.ErrUnsupported }
