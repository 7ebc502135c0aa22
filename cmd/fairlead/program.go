package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/control"
	"fairlead/internal/talk"
)

// The exit codes, the same for every command.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitConfig      = 3
	exitPermission  = 4
	exitInUse       = 5
	exitNoService   = 6
	exitTimeout     = 7
	exitNoSuch      = 8
	exitPartly      = 9
	exitInterrupted = 130
)

// A program is one run of the command: its streams, its common flags and how
// it talks.
type program struct {
	ctx            context.Context
	stdout, stderr *os.File
	getenv         func(string) string
	talk           *talk.Printer

	// The common flags.
	json, plain, noColour, quiet, verbose bool
	config, socket                        string
	timeout                               time.Duration
	wan, lan                              []string
}

func newProgram(ctx context.Context, stdout, stderr *os.File, getenv func(string) string) *program {
	return &program{ctx: ctx, stdout: stdout, stderr: stderr, getenv: getenv, timeout: 10 * time.Second}
}

func (p *program) run(args []string) int {
	p.setTalk()
	root := p.commands()
	root.SetArgs(args)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	if problem := shellArrow(args, p.stdout); problem != nil {
		return p.fail(exit(exitUsage, problem))
	}
	err := root.ExecuteContext(p.ctx)
	code := p.fail(err)
	p.talk.Close()
	return code
}

func (p *program) setTalk() {
	p.talk = talk.New(talk.Detect(p.stdout, p.stderr, p.getenv, talk.Flags{
		NoColour: p.noColour, Plain: p.plain, Quiet: p.quiet, Verbose: p.verbose,
	}))
}

// A failure is problems with the exit code that they mean.
type failure struct {
	code     int
	problems []*fairlead.Problem
}

func (f *failure) Error() string {
	if len(f.problems) == 0 {
		return "exit " + strconv.Itoa(f.code)
	}
	return f.problems[0].Error()
}

// exit is a failure with the code; errors that are no problems become some.
func exit(code int, errs ...error) error {
	f := &failure{code: code}
	for _, err := range errs {
		f.problems = append(f.problems, fairlead.AsProblem(err))
	}
	return f
}

// exitProblems is exit for a list. Overlaps alone have a code of their own.
func exitProblems(code int, problems []*fairlead.Problem) error {
	return &failure{code, problems}
}

// fail prints what went wrong, in the form that was asked for, and returns
// the exit code.
func (p *program) fail(err error) int {
	if err == nil {
		return exitOK
	}
	if errors.Is(err, syscall.EPIPE) {
		return exitOK
	}
	var f *failure
	if !errors.As(err, &f) {
		problem := fairlead.AsProblem(err)
		f = &failure{codeOf(problem), []*fairlead.Problem{problem}}
	}
	if len(f.problems) == 0 {
		return f.code
	}
	if p.json {
		p.talk.JSON(errorDocument(f.problems))
	} else {
		p.talk.Problems(f.problems, 0)
	}
	return f.code
}

// errorDocument is problems for programs.
func errorDocument(problems []*fairlead.Problem) any {
	list := []*control.Problem{}
	for _, problem := range problems {
		list = append(list, control.ProblemOf(problem))
	}
	return struct {
		Schema string             `json:"schema"`
		Errors []*control.Problem `json:"errors"`
	}{"fairlead/error/1", list}
}

// codeOf is the exit code that a problem means by itself.
func codeOf(p *fairlead.Problem) int {
	switch p.Code {
	case fairlead.CodeUsage, fairlead.CodeShellArrow:
		return exitUsage
	case fairlead.CodeInUse, fairlead.CodeInUseByOther, fairlead.CodePathInUse, fairlead.CodeOverlap, fairlead.CodeServiceRunning:
		return exitInUse
	case fairlead.CodeHalfBound:
		return exitPartly
	case fairlead.CodeLowPort, fairlead.CodePrivilege, fairlead.CodeNotAllowed, fairlead.CodeUnwritable:
		return exitPermission
	case fairlead.CodeNoService:
		if errors.Is(p, context.DeadlineExceeded) {
			return exitTimeout // it is there, and does not answer
		}
		return exitNoService
	case fairlead.CodeNoSuchForward, fairlead.CodeNoSuchConn:
		return exitNoSuch
	case fairlead.CodeNoFile, fairlead.CodeUnreadable, fairlead.CodeReloadFailed:
		return exitConfig
	}
	if errors.Is(p, context.DeadlineExceeded) {
		return exitTimeout
	}
	return exitFailed
}

// shellArrow recognises "fairlead forward :8080 -> 10.0.0.1:80": the shell
// took the arrow's head and opened a file named like the target.
func shellArrow(args []string, stdout *os.File) *fairlead.Problem {
	if len(args) == 0 || args[len(args)-1] != "-" && args[len(args)-1] != "=" || !slices.ContainsFunc(args, beginsSentence) {
		return nil // "fmt -" reads standard input
	}
	arrow := args[len(args)-1] + ">"
	problem := fairlead.Problemf(fairlead.CodeShellArrow, "%q was not received: your shell took it as a redirection", arrow)
	to := "HOST:PORT"
	if name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(stdout.Fd()))); err == nil {
		if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() {
			to = filepath.Base(name)
			problem.What = "\"" + arrow + "\" was not received: your shell took it and opened the file \"" + to + "\" for the output"
			if st.Size() == 0 {
				problem.Note("note", "an empty file was left behind: rm './%s'", to)
			}
		}
	}
	return problem.Fix("write the word \"to\"", "fairlead "+strings.Join(args[:len(args)-1], " ")+" to "+to)
}

// beginsSentence reports whether a sentence follows the word.
func beginsSentence(word string) bool {
	return word == "add" || word == "edit" || slices.ContainsFunc(config.Kinds(), func(k config.KindHelp) bool { return string(k.Kind) == word })
}

// systemSocket is the control socket of the machine's own service.
const systemSocket = "/run/fairlead/control.sock"

// socketPath is where this user's service has its control socket.
func (p *program) socketPath() string {
	if p.socket != "" {
		return p.socket
	}
	if s := p.getenv("FAIRLEAD_SOCKET"); s != "" {
		return s
	}
	if os.Geteuid() == 0 {
		return systemSocket
	}
	if dir := p.getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "fairlead", "control.sock")
	}
	return filepath.Join(p.stateDir(), "control.sock")
}

func (p *program) stateDir() string {
	if dir := p.getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "fairlead")
	}
	return filepath.Join(p.home(), ".local", "state", "fairlead")
}

// keepDir is where a carrier keeps what outlives the process: where the
// service manager says, or in the usual place.
func (p *program) keepDir() string {
	if dir, _, _ := strings.Cut(p.getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/lib/fairlead"
	}
	return p.stateDir()
}

func (p *program) home() string {
	if home, err := os.UserHomeDir(); err == nil {
		return home
	}
	return "/"
}

// configPath is the file to use: --config, $FAIRLEAD_CONFIG, the one that the
// running service reads, and then the usual place. The current directory is
// not searched.
func (p *program) configPath() string {
	if p.config != "" {
		return p.config
	}
	if c := p.getenv("FAIRLEAD_CONFIG"); c != "" {
		return c
	}
	if st, err := p.serviceStatus(); err == nil && st.File != "" {
		return st.File
	}
	return p.usualConfig()
}

func (p *program) usualConfig() string {
	if os.Geteuid() == 0 {
		return "/etc/fairlead/fairlead.conf"
	}
	if dir := p.getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "fairlead", "fairlead.conf")
	}
	return filepath.Join(p.home(), ".config", "fairlead", "fairlead.conf")
}

// service is the service that commands talk to: this user's own, or where
// there is none, the machine's.
func (p *program) service() *control.Client {
	path := p.socketPath()
	if !exists(path) && p.socket == "" && p.getenv("FAIRLEAD_SOCKET") == "" && exists(systemSocket) {
		path = systemSocket
	}
	return control.Dial(path)
}

// patience bounds one question to the service.
func (p *program) patience() (context.Context, context.CancelFunc) {
	return context.WithTimeout(p.ctx, p.timeout)
}

// usage is a problem with how a command was called.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return exit(exitUsage, fairlead.Problemf(fairlead.CodeUsage, format, args...).
		Fix("see how it is called", cmd.CommandPath()+" --help"))
}
