package talk

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/term"
)

// Flags are what the command line says about looks.
type Flags struct {
	NoColour bool // --no-color
	Plain    bool // --plain
	Quiet    bool // -q
	Verbose  bool // -v
}

// Detect is the Config for the two streams, the environment and the flags.
//
// The width is COLUMNS, else that of the terminal, else 80. Colour needs a
// terminal, and none of: --no-color, NO_COLOR that is not empty, TERM=dumb.
// The output is ASCII unless the first of LC_ALL, LC_CTYPE and LANG that is
// set names UTF-8.
func Detect(out, err *os.File, getenv func(string) string, f Flags) Config {
	c := Config{Out: out, Err: err, Plain: f.Plain, Quiet: f.Quiet, Verbose: f.Verbose}
	c.OutFile = !term.IsTerminal(int(out.Fd()))
	c.ErrFile = !term.IsTerminal(int(err.Fd()))

	escapes := getenv("TERM") != "dumb" && understandsEscapes(getenv)
	c.Colour = escapes && !f.NoColour && getenv("NO_COLOR") == "" && !(c.OutFile && c.ErrFile)
	c.Spinner = escapes && !c.ErrFile
	c.ASCII = !isUTF8(getenv)

	c.Width = columns(getenv)
	if c.Width == 0 && !c.OutFile {
		c.Width, _, _ = term.GetSize(int(out.Fd()))
	}
	if c.Width == 0 && !c.ErrFile {
		// A table into a pager is read on the same terminal.
		c.Width, _, _ = term.GetSize(int(err.Fd()))
	}
	if c.Width == 0 {
		c.Width = defaultWidth
	}
	c.Width = min(max(c.Width, minWidth), maxWidth)
	return c
}

// columns is what COLUMNS says, 0 when it says nothing of use.
func columns(getenv func(string) string) int {
	n, err := strconv.Atoi(getenv("COLUMNS"))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// isUTF8 follows POSIX: the first variable that is set decides alone.
func isUTF8(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}
