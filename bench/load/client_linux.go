package load

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Run carries out an order: it says "ready" on out, counts from the first
// line of in to the second, and prints the Result on out. The end of in at any
// time ends it.
func Run(o Order, in io.Reader, out io.Writer) error {
	if o.N < 1 || o.N > 20000 || o.Size < 0 || o.Size > chunk {
		return fmt.Errorf("order of %d times %d bytes: out of bounds", o.N, o.Size)
	}
	if o.Bound == 0 {
		o.Bound = 2 * time.Minute
	}
	lines := make(chan struct{})
	go readLines(in, lines)
	bound := time.NewTimer(o.Bound)
	defer bound.Stop()

	r := &runner{order: o, stopped: make(chan struct{})}
	began := time.Now()
	if err := r.begin(); err != nil {
		return print(out, Result{Error: err.Error(), Errors: 1})
	}
	connected := time.Since(began)
	fmt.Fprintln(out, `"ready"`)
	wait := func() error {
		select {
		case _, ok := <-lines:
			if !ok {
				return errors.New("the one who gave the order is gone")
			}
			return nil
		case err := <-r.failed:
			return err
		case <-bound.C:
			return fmt.Errorf("no end after %v", o.Bound)
		}
	}
	err := wait()
	began = time.Now()
	r.counting.Store(true)
	if err == nil {
		err = wait()
	}
	seconds := time.Since(began).Seconds()
	r.counting.Store(false)
	close(r.stopped)
	r.wg.Wait()
	res := r.result()
	res.Seconds, res.Connected = seconds, connected.Seconds()
	if err != nil {
		res.Error = err.Error()
		res.Errors = max(1, res.Errors)
	}
	return print(out, res)
}

func print(out io.Writer, r Result) error { return json.NewEncoder(out).Encode(r) }

func readLines(in io.Reader, lines chan<- struct{}) {
	defer close(lines)
	for s := bufio.NewScanner(in); s.Scan(); {
		lines <- struct{}{}
	}
}

// A runner is an order at work.
type runner struct {
	order    Order
	counting atomic.Bool
	stopped  chan struct{}
	failed   chan error
	wg       sync.WaitGroup
	workers  []*worker
	packets  *sender
}

// begin connects, starts the workers and warms up.
func (r *runner) begin() error {
	switch r.order.Kind {
	case Check:
		return check(r.order.To, r.order.Size == 0)
	case Packets:
		r.failed = make(chan error, 1)
		s, err := newSender(r)
		if err != nil {
			return err
		}
		r.packets = s
		r.wg.Go(s.run)
		return nil
	}
	n := min(2, runtime.NumCPU(), r.order.N)
	r.failed = make(chan error, n)
	connected := make(chan error, n)
	for i := range n {
		w, err := newWorker(r, i, r.order.N/n+min(1, r.order.N%n/(i+1)))
		if err != nil {
			return err
		}
		r.workers = append(r.workers, w)
		r.wg.Go(func() { w.run(connected) })
	}
	for range n {
		select {
		case err := <-connected:
			if err != nil {
				return err
			}
		case <-time.After(30 * time.Second):
			return fmt.Errorf("not all of %d connections to %v came about in 30 s", r.order.N, r.order.To)
		}
	}
	select {
	case err := <-r.failed:
		return err
	case <-time.After(r.order.Warm):
		return nil
	}
}

func (r *runner) result() Result {
	if r.packets != nil {
		return Result{Ops: r.packets.sent, Errors: r.packets.errors}
	}
	var res Result
	var all []uint32
	for _, w := range r.workers {
		res.Ops += int64(len(w.times))
		res.Errors += w.errors
		all = append(all, w.times...)
	}
	slices.Sort(all)
	res.P50, res.P99, res.P999 = rank(all, 0.5), rank(all, 0.99), rank(all, 0.999)
	return res
}

// check sends 8 MiB in pieces of many sizes and compares the hash that the
// server answers with, when it has all of it or, for half, when the client has
// ended its half.
func check(to netip.AddrPort, half bool) error {
	c, err := net.DialTimeout("tcp", to.String(), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	data := make([]byte, 8<<20)
	rand.Read(data)
	size := len(data)
	if half {
		size = 0
	}
	if _, err := c.Write(append(hello(wantHash, size), data[:1000]...)); err != nil {
		return err
	}
	for at, n := 1000, 1; at < len(data); at, n = at+n, n*3%70001+1 {
		n = min(n, len(data)-at)
		if _, err := c.Write(data[at : at+n]); err != nil {
			return err
		}
	}
	if half {
		c.(*net.TCPConn).CloseWrite()
	}
	got, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if want := sha256.Sum256(data); string(got) != string(want[:]) {
		return fmt.Errorf("8 MiB did not arrive whole (%d bytes of 32 in the answer)", len(got))
	}
	return nil
}

// A worker is an event loop with its share of the connections.
type worker struct {
	*poll
	r     *runner
	id    int
	want  int // connections
	conns map[int]*clientConn
	buf   []byte

	times  []uint32 // nanoseconds of what was answered while counting
	errors int64

	opened, proved int // connections begun; of them, those that are through
}

type clientConn struct {
	connected bool
	proved    bool
	head      []byte // what is to be sent first
	left      int    // bytes of a request that are still to send
	have      int    // bytes of the answer
	since     time.Time
}

func newWorker(r *runner, id, n int) (*worker, error) {
	p, err := newPoll()
	if err != nil {
		return nil, err
	}
	return &worker{poll: p, r: r, id: id, want: n, conns: make(map[int]*clientConn, n), buf: make([]byte, chunk),
		times: make([]uint32, 0, 1<<16)}, nil
}

// maxTimes bounds what one worker remembers.
const maxTimes = 4 << 20

// dialing is how many connections a worker has under way at a time.
const dialing = 64

// run tells connected once, when all connections are proved or one failed,
// and goes on until the order is stopped.
func (w *worker) run(connected chan<- error) {
	runtime.LockOSThread()
	defer unix.Close(w.fd)
	told := false
	fail := func(err error) {
		w.errors++
		if !told {
			connected <- err
		} else {
			w.r.failed <- err
		}
	}
	for {
		select {
		case <-w.r.stopped:
			for fd := range w.conns {
				unix.Close(fd)
			}
			return
		default:
		}
		for w.opened < w.want && w.opened-w.proved < dialing {
			if err := w.open(); err != nil {
				fail(err)
				return
			}
			w.opened++
		}
		if !told && w.proved >= w.want {
			told = true
			connected <- nil
		}
		ready, err := w.wait(20)
		if err != nil {
			fail(err)
			return
		}
		for _, ev := range ready {
			if err := w.serve(int(ev.Fd), ev.Events); err != nil {
				fail(fmt.Errorf("connection to %v: %w", w.r.order.To, err))
				return
			}
		}
	}
}

func (w *worker) open() error {
	var from netip.Addr
	if s := w.r.order.Sources; len(s) > 0 {
		from = s[(w.opened*2+w.id)%len(s)]
	}
	began := time.Now()
	fd, err := dialStream(w.r.order.To, from)
	if err != nil {
		return err
	}
	c := &clientConn{since: began}
	switch w.r.order.Kind {
	case Bulk:
		c.head = hello(wantSink, 0)
	default:
		c.head = append(hello(wantEcho, w.r.order.Size), w.buf[:w.r.order.Size]...)
	}
	w.conns[fd] = c
	return w.add(fd, unix.EPOLLIN|unix.EPOLLOUT)
}

func (w *worker) serve(fd int, events uint32) error {
	c := w.conns[fd]
	if c == nil {
		return nil
	}
	if !c.connected {
		if err := connectError(fd); err != nil {
			return err
		}
		c.connected = true
	}
	if events&unix.EPOLLOUT != 0 {
		if err := w.write(fd, c); err != nil {
			return err
		}
	}
	if events&^unix.EPOLLOUT != 0 {
		return w.read(fd, c)
	}
	return nil
}

func (w *worker) write(fd int, c *clientConn) error {
	if len(c.head) > 0 {
		n, e := send(fd, c.head)
		if e == unix.EAGAIN {
			return nil
		}
		if e != 0 {
			return e
		}
		if c.head = c.head[n:]; len(c.head) > 0 {
			return nil
		}
		c.head = nil
		if w.r.order.Kind != Bulk {
			return w.change(fd, unix.EPOLLIN)
		}
		c.proved = true
		w.proved++
	}
	if w.r.order.Kind == Bulk {
		if _, e := send(fd, w.buf); e != 0 && e != unix.EAGAIN {
			return e
		}
		return nil
	}
	n, e := send(fd, w.buf[:c.left])
	if e != 0 && e != unix.EAGAIN {
		return e
	}
	if e == 0 {
		c.left -= n
	}
	if c.left == 0 {
		return w.change(fd, unix.EPOLLIN)
	}
	return nil
}

func (w *worker) read(fd int, c *clientConn) error {
	n, e := recv(fd, w.buf)
	if e == unix.EAGAIN {
		return nil
	}
	if e != 0 {
		return e
	}
	if n == 0 {
		return errors.New("ended by the other side")
	}
	if c.have += n; c.have < w.r.order.Size {
		return nil
	}
	if c.have > w.r.order.Size {
		return fmt.Errorf("%d bytes in answer to %d", c.have, w.r.order.Size)
	}
	c.have = 0
	if w.r.counting.Load() && len(w.times) < maxTimes {
		w.times = append(w.times, uint32(min(time.Since(c.since), 4*time.Second)))
	}
	if !c.proved {
		c.proved = true
		w.proved++
	}
	switch w.r.order.Kind {
	case Connects:
		delete(w.conns, fd)
		unix.Close(fd)
		return w.open()
	case Requests:
		return w.ask(fd, c)
	}
	return nil // idle
}

func (w *worker) ask(fd int, c *clientConn) error {
	c.since = time.Now()
	c.left = w.r.order.Size
	n, e := send(fd, w.buf[:c.left])
	if e != 0 && e != unix.EAGAIN {
		return e
	}
	if e == 0 {
		c.left -= n
	}
	if c.left > 0 {
		return w.change(fd, unix.EPOLLIN|unix.EPOLLOUT)
	}
	return nil
}
