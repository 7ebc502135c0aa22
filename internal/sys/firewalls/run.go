package firewalls

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Bounds of a command: a firewall that waits for a lock must not hold up the
// rest for long, and one that says more than mostOutput is not listened to.
const (
	patience   = 10 * time.Second
	mostOutput = 8 << 20
)

// A failure is a command that did not succeed.
type failure struct {
	command []string
	said    string
	err     error
}

func (f *failure) Error() string {
	said := f.said
	if said == "" {
		said = f.err.Error()
	}
	return strings.Join(f.command, " ") + ": " + said
}

func (f *failure) Unwrap() error { return f.err }

// run runs a program with input and returns what it wrote to its output.
func run(ctx context.Context, input string, command ...string) (string, error) {
	if len(command) == 0 {
		return "", errors.New("no command")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	c.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "LC_") || strings.HasPrefix(v, "LANG") }), "LC_ALL=C")
	c.WaitDelay = time.Second
	c.Stdin = strings.NewReader(input)
	var out, said bounded
	c.Stdout, c.Stderr = &out, &said
	err := c.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%s is not installed: it %w", command[0], ErrAbsent)
	case ctx.Err() != nil:
		return "", &failure{command, fmt.Sprintf("no answer within %v", patience), ctx.Err()}
	case err != nil:
		text := strings.TrimSpace(said.String())
		if text == "" {
			text = strings.TrimSpace(out.String())
		}
		if len(text) > 400 {
			text = text[:400] + "…"
		}
		return out.String(), &failure{command, text, err}
	case out.over:
		return "", &failure{command, "it says too much", errors.New("too much output")}
	}
	return out.String(), nil
}

// bounded keeps the first mostOutput bytes.
type bounded struct {
	bytes.Buffer
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > mostOutput {
		b.over = true
		return len(p), nil
	}
	return b.Buffer.Write(p)
}
