package main

import (
	"context"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/lab"
)

// A trigger works while the service restarts, whether that was meant or not,
// and its "for" is no end of the trigger itself.
func TestATriggerOutlivesTheService(t *testing.T) {
	s := newSite(t)
	sentences := "masq: share lan to wan\nirc: trigger 7000/udp opens 80/tcp for 3s\n"
	v := s.here().up(t, sentences)
	send := func() {
		t.Helper()
		if err := s.Inside.Do(func() error {
			c, err := net.Dial("udp", lab.Outside4+":7000")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("x"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	reaches := func(patience time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := s.Outside.DialContext(ctx, "tcp", lab.WAN4+":80")
		if err == nil {
			err = exchange(c)
			c.Close()
		}
		return err == nil
	}
	if reaches(300 * time.Millisecond) {
		t.Error("the port is open before anybody triggers")
	}
	send()
	if !reaches(patience) {
		t.Error("the port is closed after that")
	}
	v.await("irc", func(f control.Forward) bool {
		return len(f.Targets) == 1 && f.Targets[0].Target == lab.Inside4 && f.Targets[0].Until != nil
	})
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		send()
		v.signal(sig)
		<-v.done
		if !reaches(patience) {
			t.Errorf("%v: the port is closed while nobody is there", sig)
		}
		v = s.here().upIn(t, v.dir)
		if !reaches(patience) {
			t.Errorf("%v: the port is closed after the restart", sig)
		}
	}
	// It closes when its time without traffic is over, and opens again.
	v.await("irc", func(f control.Forward) bool { return len(f.Targets) == 0 })
	if f := v.forward("irc"); f.Expires != nil || f.Error != nil {
		t.Errorf("the trigger ends at %v, %v", f.Expires, f.Error)
	}
	if reaches(300 * time.Millisecond) {
		t.Error("the port is open after its time")
	}
	send()
	if !reaches(patience) {
		t.Error("the port does not open a second time")
	}
	v.says(`80/tcp closed for 192\.168\.1\.10: no traffic for 3s`)
	v.says(`192\.168\.1\.10 opened 80/tcp`)
	out, _, code := s.run("status", "irc", "--socket", v.socket)
	if code != exitOK || !strings.Contains(out, lab.Inside4) || !strings.Contains(out, "closes in") {
		t.Errorf("status: %d\n%s", code, out)
	}
}
