// Package service is what a service manager asks of a service: word of being
// ready, reloading and stopping, a sign of life, and the sockets it opened
// for us. It speaks systemd's protocols, sd_notify(3) and sd_listen_fds(3),
// which others have taken over (s6, OpenRC and container engines in part).
//
// It installs and controls no units, and writes no logs. Outside a service
// everything here does nothing and says so by its zero value, so callers need
// not ask where they run. All functions may be called concurrently, except
// PassedSockets.
package service

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready says that starting, or a reload announced by Reloading, is over.
// Status is a line for "systemctl status"; "" leaves the last one standing.
func Ready(status string) error {
	return notify(daemon.SdNotifyReady + "\n" + statusLine(status))
}

// Reloading says that the configuration is being read again; Ready ends it,
// also after a reload that failed. It carries the monotonic time, by which
// Type=notify-reload tells the answer to its own SIGHUP from an earlier one.
func Reloading() error {
	return notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Stopping says that the service is about to end.
func Stopping() error { return notify(daemon.SdNotifyStopping) }

// Status shows text in "systemctl status" until the next one.
func Status(text string) error { return notify(statusLine(text)) }

// Alive is the sign of life that Watchdog asks for.
func Alive() error { return notify(daemon.SdNotifyWatchdog) }

// Watchdog is how often Alive has to be called, half of the time after which
// the manager would kill this process. Ok is false when nobody watches it.
func Watchdog() (interval time.Duration, ok bool) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil || limit <= 0 {
		return 0, false
	}
	return limit / 2, true
}

// PassedSockets are the sockets that the manager opened for this process,
// each with the name that its unit gives it (FileDescriptorName=), or
// LISTEN_FD_n where it gives none. The caller closes them; net.FileListener
// and net.FilePacketConn make duplicates. They close on exec, and the
// environment forgets them, so that no child takes them for its own and a
// second call finds none. Call it once, before children are started.
func PassedSockets() []*os.File {
	// Newer managers name the process by its pidfd as well (systemd 258).
	defer os.Unsetenv("LISTEN_PIDFDID")
	return activation.Files(true)
}

// InJournal says whether standard error goes straight to the journal: then
// lines carry a priority "<N>" and no time of their own. A JOURNAL_STREAM
// inherited past a redirection does not count (systemd.exec(5)).
func InJournal() bool {
	var dev, inode uint64
	stream := os.Getenv("JOURNAL_STREAM")
	if _, err := fmt.Sscanf(stream, "%d:%d", &dev, &inode); err != nil {
		return false
	}
	return stream == fmt.Sprintf("%d:%d", dev, inode) && isFile(os.Stderr, dev, inode)
}

// statusLine keeps text to one line: a newline would begin another variable,
// and text may quote what came from outside.
func statusLine(text string) string {
	if text == "" {
		return ""
	}
	return "STATUS=" + strings.Join(strings.FieldsFunc(text, isLineEnd), " ")
}

func isLineEnd(r rune) bool { return r == '\n' || r == '\r' || r == 0 }

func notify(state string) error {
	state = strings.TrimSuffix(state, "\n")
	if state == "" {
		return nil
	}
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("tell the service manager %q: %w", state, err)
	}
	return nil
}
