package relay

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"fairlead"
)

// Bounds on what a check reads, so that a target cannot make it read for ever.
const (
	checkHead = 16 << 10 // of an HTTP answer
	checkTail = 64 << 10 // of an answer in which a text is looked for
)

// ask has the conversation that the check wants on a fresh connection, which
// the caller closes. For "tcp" the connection was the answer. A target that
// wants to be told who comes is told that it is nobody.
func (ru *rule) ask(ctx context.Context, c net.Conn, t *target) error {
	check := &ru.f.Policy.Check
	if check.How != "http" && check.How != "expect" {
		return nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_, datagrams := c.(*net.UDPConn)
	var head []byte
	if ru.client == nil { // otherwise it was told before the handshake
		var err error
		if head, err = new(origin).header(ru.f.Policy.ProxyProtocol, "tcp"); err != nil {
			return err
		}
	}
	if check.How == "expect" {
		return checkText(c, datagrams, head, t, check)
	}
	if _, err := c.Write(head); err != nil {
		return err
	}
	return checkHTTP(ctx, c, t, check)
}

// checkHTTP asks for a path and is content with any answer below 400: a
// service that redirects serves.
func checkHTTP(ctx context.Context, c net.Conn, t *target, check *fairlead.Check) error {
	path := check.Path
	if path == "" {
		path = "/"
	}
	failed := func(err error) error {
		p := fairlead.Problemf(fairlead.CodeTargetFailed, "%s gives no HTTP answer: %v", t.t.Dest(), cause(err))
		p.Err = err
		return p
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+httpHost(t)+path, nil)
	if err != nil {
		return failed(err)
	}
	req.Header.Set("User-Agent", "fairlead-check")
	req.Close = true
	if err := req.Write(c); err != nil {
		return failed(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, checkHead)), req)
	if err != nil {
		return failed(err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 400 {
		return fairlead.Problemf(fairlead.CodeTargetFailed, "%s answers %q to GET %s", t.t.Dest(), resp.Status, path)
	}
	return nil
}

func httpHost(t *target) string {
	if t.t.Unix != "" {
		return "localhost"
	}
	return (&fairlead.Target{Host: t.host()}).Dest()
}

// checkText sends what the check sends, and reads until what it expects has
// come: on a stream somewhere in the first 64 KiB, else within one datagram.
func checkText(c net.Conn, datagrams bool, head []byte, t *target, check *fairlead.Check) error {
	if b := append(head, check.Send...); len(b) > 0 {
		if _, err := c.Write(b); err != nil {
			return unexpected(t, check, nil, err)
		}
	}
	buf := make([]byte, checkTail)
	have := 0
	for have < len(buf) {
		if datagrams {
			have = 0
		}
		n, err := c.Read(buf[have:])
		have += n
		if bytes.Contains(buf[:have], []byte(check.Expect)) {
			return nil
		}
		if err != nil {
			return unexpected(t, check, buf[:have], err)
		}
	}
	return unexpected(t, check, buf, nil)
}

// unexpected says what came in place of what a check expects.
func unexpected(t *target, check *fairlead.Check, got []byte, err error) error {
	var p *fairlead.Problem
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		p = fairlead.Problemf(fairlead.CodeTargetRefuses, "%s refuses what the check sends: nothing listens there", t.t.Dest())
	case errors.Is(err, os.ErrDeadlineExceeded) && len(got) == 0:
		p = fairlead.Problemf(fairlead.CodeTargetSilent, "%s does not answer the check", t.t.Dest())
	case len(got) == 0 && (err == io.EOF || err == nil):
		p = fairlead.Problemf(fairlead.CodeTargetFailed, "%s ends the connection without an answer to the check", t.t.Dest())
	case len(got) == 0:
		p = fairlead.Problemf(fairlead.CodeTargetFailed, "%s does not answer the check: %v", t.t.Dest(), cause(err))
	default:
		p = fairlead.Problemf(fairlead.CodeTargetFailed, "%s answers the check with %q, and not %q", t.t.Dest(), head(got), head([]byte(check.Expect)))
	}
	p.Err = err
	return p
}

// head is the beginning of b, short enough for a line.
func head(b []byte) []byte {
	if len(b) > 40 {
		return append(append([]byte{}, b[:37]...), "..."...)
	}
	return b
}

// checked reports whether targets are asked regularly.
func checked(c *fairlead.Check) bool { return c.How != "" && c.How != "off" }

// What a check is where the sentence does not say it.
const (
	checkEvery = 5 * time.Second
	checkRise  = 1
	checkFall  = 2
)

// every is the time from one check to the next.
func every(c *fairlead.Check) time.Duration { return cmp.Or(c.Every, checkEvery) }

// rise is how many good answers in a row it takes until a target that was down
// is up, and fall how many failures until one that was up is down.
func rise(c *fairlead.Check) int { return cmp.Or(c.Rise, checkRise) }
func fall(c *fairlead.Check) int { return cmp.Or(c.Fall, checkFall) }
