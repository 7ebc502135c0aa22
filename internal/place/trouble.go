package place

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fairlead"
)

// maxNotes bounds the evidence of one message.
const maxNotes = 4

// ReasonOf is the close reason for a connection that never reached its target
// because a dial failed with err, of this Place or of another. It is Failed
// for an error that says nothing more, for a cancelled dial as well: whoever
// cancels knows why.
func ReasonOf(err error) fairlead.Reason {
	code := kindOf(err)
	var p *fairlead.Problem
	if errors.As(err, &p) {
		code = p.Code
	}
	switch code {
	case fairlead.CodeTargetRefuses:
		return fairlead.Refused
	case fairlead.CodeTargetSilent:
		return fairlead.DialTimeout
	case fairlead.CodeTargetUnreachable, fairlead.CodeNoSocket:
		return fairlead.Unreachable
	case fairlead.CodeNameUnknown, fairlead.CodeNameFamily, fairlead.CodeNameServer:
		return fairlead.NameUnknown
	case fairlead.CodeNoDescriptors:
		return fairlead.NoDescriptors
	case fairlead.CodeLoop:
		return fairlead.Loop
	}
	return fairlead.Failed
}

// kindOf is the code of a connect's error; CodeTargetFailed when there is none
// of its own, "" for nil.
func kindOf(err error) fairlead.Code {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	var timeout net.Error
	switch {
	case err == nil:
		return ""
	case is(errTooManyHere, errTooManyAll):
		return fairlead.CodeNoDescriptors
	case is(errRefused):
		return fairlead.CodeTargetRefuses
	case is(errNetUnreach, errHostUnreach, errNetDown, errHostDown):
		return fairlead.CodeTargetUnreachable
	case is(errAgain): // which calls itself a timeout
		return fairlead.CodeTargetFailed
	case is(errTimedOut, os.ErrDeadlineExceeded, context.DeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return fairlead.CodeTargetSilent
	}
	return fairlead.CodeTargetFailed
}

// telling orders codes by what they tell about a target that was tried at
// several addresses. A refusal says more than silence, as a host without IPv6
// cannot reach half of the addresses of any name.
var telling = []fairlead.Code{
	fairlead.CodeNoDescriptors,
	fairlead.CodeTargetRefuses,
	fairlead.CodeTargetSilent,
	fairlead.CodeTargetUnreachable,
	fairlead.CodeTargetFailed,
}

// connectError tells why no address of subject, "host:port", could be
// connected to. failed has at least one attempt.
func connectError(ctx context.Context, subject string, failed []attempt, took time.Duration) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return cancelled(subject, ctx)
	}
	cause := failed[0]
	for _, a := range failed[1:] {
		if rank(a.err) < rank(cause.err) {
			cause = a
		}
	}
	p := problem(subject, cause.err, took)
	// An address that the message names already is no evidence for itself.
	if len(failed) > 1 || failed[0].to.String() != subject {
		for i, a := range failed {
			if i == maxNotes-1 && len(failed) > maxNotes {
				p.Note("note", "%d more addresses failed as well", len(failed)-i)
				break
			}
			p.Note("note", "%s: %s", a.to, words(a.err))
		}
	}
	return p
}

func rank(err error) int {
	code := kindOf(err)
	for i, c := range telling {
		if c == code {
			return i
		}
	}
	return len(telling)
}

// problem tells one connect's error about subject, without evidence.
func problem(subject string, err error, took time.Duration) *fairlead.Problem {
	var told *fairlead.Problem
	if errors.As(err, &told) { // by who prepared the socket
		return told
	}
	code := kindOf(err)
	var p *fairlead.Problem
	switch code {
	case fairlead.CodeNoDescriptors:
		p = noDescriptors("connect to " + subject)
	case fairlead.CodeTargetRefuses:
		p = fairlead.Problemf(code, "%s refuses connections", subject).
			Fix("start the service there, or correct the target's port", "")
	case fairlead.CodeTargetSilent:
		p = fairlead.Problemf(code, "%s does not answer (%s)", subject, span(took)).
			Fix("see whether the machine is on and no firewall drops the packets", "")
	case fairlead.CodeTargetUnreachable:
		p = fairlead.Problemf(code, "%s cannot be reached (%s)", subject, words(err)).
			Fix("correct the target's address, or the route to it", "")
	default:
		p = fairlead.Problemf(code, "connecting to %s failed: %s", subject, words(err))
		switch {
		case errors.Is(err, errNoAddress), errors.Is(err, errAgain):
			p.Code = fairlead.CodeNoSourcePort
			p.Note("why", "this host has no address to reach it from, or all its ports toward it are in use").
				Fix("let the target be reached from several source addresses, or at several of its own", "")
		case errors.Is(err, os.ErrPermission):
			p.Note("why", "a firewall or a security policy of this host forbids it").
				Fix("allow it there", "")
		}
	}
	p.Err = err
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// The socket's deadline is the context's, and either may be seen first.
		p.Err = errors.Join(context.DeadlineExceeded, err)
	}
	return p
}

// unixError tells why the socket at path could not be connected to.
func unixError(ctx context.Context, path string, err error, took time.Duration) error {
	subject := "unix:" + path
	if errors.Is(ctx.Err(), context.Canceled) {
		return cancelled(subject, ctx)
	}
	var p *fairlead.Problem
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		p = fairlead.Problemf(fairlead.CodeNoSocket, "there is no unix socket at %s", path).
			Fix("start the program that makes it, or correct the path", "")
	case errors.Is(err, os.ErrPermission):
		p = fairlead.Problemf(fairlead.CodeNoSocket, "the unix socket at %s may not be used by this user", path).
			Fix("join the group that the socket or its directory belongs to", "ls -l "+path)
	case errors.Is(err, errRefused) && !isSocket(path):
		p = fairlead.Problemf(fairlead.CodeNoSocket, "%s is a file, but no unix socket", path).
			Fix("correct the path", "")
	case errors.Is(err, errRefused):
		p = fairlead.Problemf(fairlead.CodeTargetRefuses, "%s refuses connections", subject).
			Note("why", "the socket's file is there, but no program listens at it").
			Fix("start the program that made it", "")
	case errors.Is(err, errProtoType):
		p = fairlead.Problemf(fairlead.CodeNoSocket, "the unix socket at %s is of another type (%s)", path, words(err)).
			Fix("correct the path, or the protocol", "")
	case errors.Is(err, errAgain):
		p = fairlead.Problemf(fairlead.CodeTargetSilent, "%s does not answer (%s)", subject, span(took)).
			Note("why", "the program that listens there accepts no connections: its queue is full").
			Fix("see what that program is doing", "")
	default:
		p = problem(subject, err, took)
	}
	p.Err = err
	return p
}

func noDescriptors(task string) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeNoDescriptors, "cannot %s: out of file descriptors", task).
		Fix("raise the limit of open files of this program", "ulimit -n 65536").
		Fix("bound its connections", "max-conns N")
}

func cancelled(subject string, ctx context.Context) error {
	return fmt.Errorf("connecting to %s was given up: %w", subject, ctx.Err())
}

// words is err without the operation and addresses that net puts before it.
func words(err error) string {
	var op *net.OpError
	for errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.Err
	}
	if kindOf(err) == fairlead.CodeTargetSilent {
		return "no answer"
	}
	return err.Error()
}

// listed is some addresses in one line.
func listed(addrs []netip.Addr) string {
	var b strings.Builder
	for i, a := range addrs {
		if i == maxNotes {
			fmt.Fprintf(&b, " and %d more", len(addrs)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(a.String())
	}
	return b.String()
}

// span is a duration for people: "300 ms", "5 s", "1.5 s".
func span(d time.Duration) string {
	if d < time.Second {
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	}
	tenths := d.Round(100 * time.Millisecond).Seconds()
	return strconv.FormatFloat(tenths, 'f', -1, 64) + " s"
}
