package kernel

import (
	"net"
	"testing"
	"time"

	"fairlead/internal/lab"
)

// A phone in the LAN has spoken to its registrar, and is silent. A call from
// another host reaches it as long as a keepalive holds its port open, and not
// without one.
func TestACallIsReceivedThroughATriggerThatIsHeldOpen(t *testing.T) {
	lab.NeedTool(t, "sipp")
	for _, held := range []bool{true, false} {
		l := newLine(t)
		registrar, err := l.second.ListenPacket(t.Context(), "udp", second4+":5060")
		if err != nil {
			t.Fatal(err)
		}
		defer registrar.Close()
		sentence := "trigger 5060/udp opens 5060/udp for 2s"
		if held {
			sentence += " keepalive 1s"
		}
		l.carry("share lan to wan", sentence)

		var phone net.Conn
		if err := l.Inside.Do(func() (err error) {
			phone, err = net.Dial("udp", second4+":5060")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer phone.Close()
		if _, err := phone.Write([]byte("REGISTER sip:example.net SIP/2.0\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if held {
			// What the registrar hears after the first is the gateway's, and more of
			// it than the port would be open by itself.
			for n := 0; n < 5; n++ {
				registrar.SetReadDeadline(time.Now().Add(patience))
				if _, _, err := registrar.ReadFrom(make([]byte, 100)); err != nil {
					t.Fatalf("after %d datagrams: %v", n, err)
				}
			}
		} else {
			until(t, "the port closes", func() bool { return l.holders() == 0 })
		}

		uas := l.sipp(l.Inside, "-sn", "uas", "-i", lab.Inside4, "-m", "1", "-timeout", "15s")
		if err := uas.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- uas.Wait() }()
		until(t, "the phone listens", func() bool {
			out, _ := l.Inside.Command(t, "ss", "-Hlun", "sport", "=", "5060").Output()
			return len(out) > 0
		})
		uac := l.sipp(l.Outside, "-sn", "uac", lab.WAN4+":5060", "-i", lab.Outside4, "-m", "1", "-timeout", "4s", "-timeout_error")
		out, err := uac.CombinedOutput()
		if (err == nil) != held {
			t.Errorf("held %v: the caller ended with %v\n%s", held, err, out)
		}
		if held {
			if err := <-ended; err != nil {
				t.Errorf("the phone ended with %v", err)
			}
			continue
		}
		uas.Process.Kill()
		<-ended
	}
}

// sipp is a SIP client or server at port 5060 of a host.
func (l *line) sipp(host *lab.Host, args ...string) *lab.Command {
	cmd := host.Command(l.t, "sipp", append(args, "-p", "5060", "-nostdin")...)
	cmd.Dir = l.t.TempDir()
	return cmd
}
