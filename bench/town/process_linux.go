package town

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

// A Process is a program of the town, with whatever it starts itself.
type Process struct {
	Name  string
	Group *Group

	cmd   *exec.Cmd
	ended chan struct{}
	err   error // how it ended; valid after ended is closed
}

// Start starts cmd on a host, in a CPU group of its own. uid other than 0
// makes it an ordinary user's. The process ends with [Process.Kill] or with
// the town.
func (t *Town) Start(h *Host, name string, cmd *exec.Cmd, uid uint32) (*Process, error) {
	g, err := t.groups.group(name)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	if err := h.Do(func() error { return g.start(cmd) }); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, Group: g, cmd: cmd, ended: make(chan struct{})}
	g.mu.Lock()
	g.sessions = append(g.sessions, cmd.Process.Pid)
	g.mu.Unlock()
	go p.wait()
	return p, nil
}

func (p *Process) wait() {
	p.err = p.cmd.Wait()
	close(p.ended)
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Err is how the process ended; call it after that.
func (p *Process) Err() error {
	<-p.ended
	return p.err
}

// Kill ends the process and what it has started, and waits for that.
func (p *Process) Kill() {
	p.Group.kill()
	<-p.ended
}

// Usage is what a group of processes holds.
type Usage struct {
	Memory    int64 // bytes, shared pages divided among their users (PSS)
	Files     int   // open descriptors
	Processes int
}

// Usage reads what the processes of the group hold now.
func (g *Group) Usage() Usage {
	var u Usage
	for _, pid := range g.PIDs() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it has ended
		}
		u.Memory += fieldKiB(string(b), "Pss:") << 10
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		u.Files += len(fds)
		u.Processes++
	}
	return u
}

// kill ends all processes of the group: those that it finds, until it finds
// none. Children of a process that has ended have become children of this one
// (see [New]) and are waited for, lest they stay as zombies where nobody else
// does that.
func (g *Group) kill() {
	g.mu.Lock()
	leaders := slices.Clone(g.sessions) // waited for by their Process
	g.mu.Unlock()
	orphans := map[int]bool{}
	for range 300 {
		pids := g.PIDs()
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
			orphans[pid] = !slices.Contains(leaders, pid)
		}
		waiting := false
		for pid, orphan := range orphans {
			if !orphan {
				continue
			}
			if n, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); n == pid || errors.Is(err, syscall.ECHILD) && syscall.Kill(pid, 0) != nil {
				delete(orphans, pid)
			} else {
				waiting = true
			}
		}
		if len(pids) == 0 && !waiting {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// KernelMemory is what the kernel holds now for sockets, threads and the like,
// in bytes, on the machine as a whole.
func KernelMemory() int64 {
	b, _ := os.ReadFile("/proc/meminfo")
	text := string(b)
	return (fieldKiB(text, "Slab:") + fieldKiB(text, "KernelStack:") + fieldKiB(text, "PageTables:")) << 10
}

// ReadMachine reads what the machine has spent so far.
func ReadMachine() Machine {
	b, _ := os.ReadFile("/proc/stat")
	return parseMachine(string(b))
}
