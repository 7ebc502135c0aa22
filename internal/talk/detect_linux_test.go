package talk

import (
	"os"
	"syscall"
	"testing"
	"unsafe"
)

// terminal is a pseudo-terminal of that many columns. Its master side answers
// the questions that Detect asks as a terminal does.
func terminal(t *testing.T, columns uint16) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	size := [4]uint16{24, columns}
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), syscall.TIOCSWINSZ, uintptr(unsafe.Pointer(&size))); errno != 0 {
		t.Fatalf("set the size of %s: %v", f.Name(), errno)
	}
	return f
}

func TestTerminalsGetColourUnlessToldOtherwise(t *testing.T) {
	tty := terminal(t, 132)
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	utf8 := []string{"TERM", "xterm", "LANG", "C.UTF-8"}
	for _, test := range []struct {
		name                    string
		out, err                *os.File
		env                     []string
		flags                   Flags
		width                   int
		outCol, errCol, spinner bool
	}{
		{"both", tty, tty, utf8, Flags{}, 132, true, true, true},
		{"COLUMNS", tty, tty, append([]string{"COLUMNS", "100"}, utf8...), Flags{}, 100, true, true, true},
		{"--no-color", tty, tty, utf8, Flags{NoColour: true}, 132, false, false, true},
		{"NO_COLOR", tty, tty, append([]string{"NO_COLOR", "1"}, utf8...), Flags{}, 132, false, false, true},
		{"NO_COLOR empty", tty, tty, append([]string{"NO_COLOR", ""}, utf8...), Flags{}, 132, true, true, true},
		{"dumb", tty, tty, []string{"TERM", "dumb"}, Flags{}, 132, false, false, false},
		{"data to a file", file, tty, utf8, Flags{}, 132, false, true, true},
		{"talk to a file", tty, file, utf8, Flags{}, 132, true, false, false},
		{"size unknown", terminal(t, 0), file, utf8, Flags{}, 80, true, false, false},
	} {
		c := Detect(test.out, test.err, env(test.env...), test.flags)
		p := New(c)
		if c.Width != test.width || p.out.colour != test.outCol || p.err.colour != test.errCol || c.Spinner != test.spinner {
			t.Errorf("%s: got %d columns, colour %v and %v, spinner %v", test.name, c.Width, p.out.colour, p.err.colour, c.Spinner)
		}
	}
}
