package control

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"fairlead"
)

// Listen makes the control socket at path, mode 0660. Where a group of that
// name exists and we may give it away, the socket belongs to it; "" names none.
// A missing directory is made: for root with mode 0750 and of the same group,
// else with mode 0700.
//
// A socket that a killed service left behind is replaced. One that answers is
// a Problem with CodeServiceRunning, and what is no socket is never touched.
// Two services that start at the same moment cannot both win. Closing the
// listener removes the socket.
func Listen(path, group string) (net.Listener, error) {
	gid := groupID(group)
	dir := filepath.Dir(path)
	if err := makeDir(dir, gid); err != nil {
		return nil, trouble(err, "make the directory %s of the control socket", dir)
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return nil, trouble(err, "lock the control socket %s", path)
	}
	defer unlock()
	if err := clearStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, trouble(err, "listen on the control socket %s", path)
	}
	if err := open(path, gid); err != nil {
		l.Close()
		return nil, trouble(err, "set the mode of the control socket %s", path)
	}
	return l, nil
}

// open lets the group in. Until then only our own user may connect: without
// the right to write, which the umask takes away, nobody else can, unix(7).
func open(path string, gid int) error {
	if gid >= 0 {
		// Refused when we are not of that group; then our own group may.
		if err := os.Chown(path, -1, gid); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return os.Chmod(path, 0o660)
}

func makeDir(dir string, gid int) error {
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o750
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, mode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil // somebody else's to arrange, or made by us before
		}
		return err
	}
	if gid >= 0 && mode == 0o750 {
		if err := os.Chown(dir, -1, gid); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return os.Chmod(dir, mode) // the umask may have taken some of it
}

// groupID is the number of a group; -1: there is none.
func groupID(name string) int {
	if name == "" {
		return -1
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return -1 // not a number on this system
	}
	return gid
}

// answerTime is how long a service may take to accept before its socket counts
// as one that is alive and busy.
const answerTime = 2 * time.Second

// clearStale removes a socket at which nobody listens.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return trouble(err, "look at the control socket %s", path)
	case info.Mode().Type() != fs.ModeSocket:
		return fairlead.Problemf(fairlead.CodePathInUse, "%s exists and is no socket", path).
			Fix("name another control socket", "fairlead up --socket PATH")
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		holder := peer(c)
		c.Close()
		p := fairlead.Problemf(fairlead.CodeServiceRunning, "a service runs already at %s", path)
		if holder.Known {
			p.Note("by", "process %d of uid %d", holder.PID, holder.UID)
		}
		return p.
			Fix("see what it does", "fairlead status --socket "+path).
			Fix("give this one a control socket of its own", "fairlead up --socket PATH")
	case nobodyListens(err):
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return trouble(err, "remove the control socket %s that a killed service left", path)
		}
		return nil
	case errors.Is(err, fs.ErrPermission):
		return trouble(err, "ask at the control socket %s whether a service runs", path)
	}
	// It neither answered nor is it dead: full, stopped, or not of our kind.
	p := fairlead.Problemf(fairlead.CodeServiceRunning, "something listens at %s already and does not answer", path)
	p.Err = err
	return p.Note("why", "%v", cause(err)).
		Fix("give this one a control socket of its own", "fairlead up --socket PATH")
}

// trouble is a Problem of what we tried to do and the system's words for why not.
func trouble(err error, format string, args ...any) *fairlead.Problem {
	code := fairlead.CodeListenFailed
	if errors.Is(err, fs.ErrPermission) {
		code = fairlead.CodeNotAllowed
	}
	p := fairlead.Problemf(code, "cannot "+format, args...)
	p.Err = err
	return p.Note("why", "%v", cause(err))
}

// cause is the system's word within an error of package os or net, which
// repeats the path.
func cause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
