package main

import (
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"fairlead"
	"fairlead/internal/config"
)

// The groups of commands in the help.
const (
	groupForward = "forward"
	groupLook    = "look"
	groupChange  = "change"
	groupConfig  = "config"
	groupProgram = "program"
)

// commands is the whole command line.
func (p *program) commands() *cobra.Command {
	root := &cobra.Command{
		Use:   "fairlead",
		Short: "port forwarding that tells you why it does not work",
		Long: `fairlead forwards connections: every kind of port forwarding in one sentence.

  fairlead forward 8080 to 192.168.1.10:80     until Ctrl-C
  fairlead add forward 8080 to HOST:80         for good, carried by the service (fairlead up)

A bare port listens on this machine only, :8080 on every address.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			p.setTalk()
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 2 { // a sentence, of a kind that there is not
				if _, problems := config.ParseArgs(args); len(problems) > 0 {
					return exitProblems(exitUsage, problems)
				}
			}
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			if asked, err := cmd.Flags().GetBool("version"); asked && err == nil {
				return p.version()
			}
			return cmd.Help()
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.CompletionOptions.HiddenDefaultCmd = true
	p.commonFlags(root.PersistentFlags())
	root.Flags().Bool("version", false, "print the version")
	root.SetFlagErrorFunc(flagError)
	root.AddGroup(
		&cobra.Group{ID: groupForward, Title: "Forward (in the foreground, ends with Ctrl-C):"},
		&cobra.Group{ID: groupLook, Title: "Look at the service:"},
		&cobra.Group{ID: groupChange, Title: "Change:"},
		&cobra.Group{ID: groupConfig, Title: "The file:"},
		&cobra.Group{ID: groupProgram, Title: "The program:"},
	)
	root.AddCommand(p.kindCommands()...)
	root.AddCommand(p.lookCommands()...)
	root.AddCommand(p.changeCommands()...)
	root.AddCommand(p.killCommand(), p.reloadCommand())
	root.AddCommand(p.fileCommands()...)
	root.AddCommand(p.planCommand())
	root.AddCommand(p.upCommand(), p.installCommand(), p.uninstallCommand(), p.cleanCommand(), p.versionCommand(), p.completionCommand(root))
	root.SetHelpCommand(p.helpCommand(root))
	for _, c := range root.Commands() {
		if c.Args != nil {
			c.Args = counted(c.Args)
		}
	}
	return root
}

// counted is check, with what is wrong as a problem with how the command was
// called.
func counted(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usage(cmd, "%s: %v", cmd.CommandPath(), err)
		}
		return nil
	}
}

func unknownCommand(root *cobra.Command, word string) error {
	problem := fairlead.Problemf(fairlead.CodeUsage, "there is no command %q", word)
	for i, s := range root.SuggestionsFor(word) {
		if i == 3 {
			break
		}
		problem.Fix("did you mean", "fairlead "+s)
	}
	if len(problem.Fixes) == 0 {
		if strings.ContainsAny(word, ":0123456789") {
			problem.Fix("a forward begins with its kind", "fairlead forward "+word+" to HOST:PORT")
		}
		problem.Fix("list the commands", "fairlead help")
	}
	return exit(exitUsage, problem)
}

// flagError is an unknown flag in words, with the one that was meant.
func flagError(cmd *cobra.Command, err error) error {
	problem := fairlead.Problemf(fairlead.CodeUsage, "%s: %v", cmd.CommandPath(), err)
	return exit(exitUsage, problem.Fix("see its flags", cmd.CommandPath()+" --help"))
}

// built is the version of a release, set by the linker.
var built string

func version() string {
	if built != "" {
		return built
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "print the version",
		GroupID: groupProgram,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, args []string) error { return p.version() },
	}
}

func (p *program) version() error {
	info, _ := debug.ReadBuildInfo()
	goVersion := ""
	if info != nil {
		goVersion = info.GoVersion
	}
	if p.json {
		return p.talk.JSON(struct {
			Schema  string `json:"schema"`
			Version string `json:"version"`
			Go      string `json:"go"`
		}{"fairlead/version/1", version(), goVersion})
	}
	return p.talk.Line("fairlead %s, %s", version(), goVersion)
}

func (p *program) completionCommand(root *cobra.Command) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:       "completion bash|zsh|fish|powershell",
		Short:     "print a completion script for a shell",
		GroupID:   groupProgram,
		Long:      "Print a completion script. For bash:\n\n  source <(fairlead completion bash)",
		Args:      cobra.ExactArgs(1),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(p.stdout, true)
			case "zsh":
				return root.GenZshCompletion(p.stdout)
			case "fish":
				return root.GenFishCompletion(p.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(p.stdout)
			}
			return usage(cmd, "completion knows %s, not %q", strings.Join(shells, ", "), args[0])
		},
	}
}

// completeNames completes names of forwards: the service's, else the file's.
func (p *program) completeNames(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if st, err := p.serviceStatus(); err == nil {
		for _, f := range st.Forwards {
			names = append(names, f.Name+"\t"+f.Expr)
		}
	} else if file, _ := load(p.configPath()); file != nil {
		for _, f := range file.Forwards {
			names = append(names, f.Name+"\t"+f.Expr)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (p *program) helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND | CODE | grammar | codes]",
		Short:   "explain a command, an error code, or the grammar",
		GroupID: groupProgram,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return root.Help()
			}
			switch word := args[0]; {
			case word == "grammar":
				return p.talk.Text(grammarText())
			case word == "codes":
				return p.codes()
			case strings.HasPrefix(strings.ToUpper(word), "FL-"):
				page, ok := fairlead.PageOf(fairlead.Code(strings.ToUpper(word)))
				if !ok {
					return exit(exitUsage, fairlead.Problemf(fairlead.CodeUsage, "there is no code %s", word).Fix("list them", "fairlead help codes"))
				}
				return p.page(page)
			}
			c, _, err := root.Find(args)
			if err != nil || c == root {
				return unknownCommand(root, args[0])
			}
			return c.Help()
		},
	}
}

func (p *program) page(page fairlead.Page) error {
	if p.json {
		return p.talk.JSON(struct {
			Schema string `json:"schema"`
			Code   string `json:"code"`
			Title  string `json:"title"`
			Text   string `json:"text"`
		}{"fairlead/page/1", string(page.Code), page.Title, page.Text})
	}
	return p.talk.Page(page)
}

func (p *program) codes() error {
	for _, page := range fairlead.Pages {
		if err := p.talk.Line("%s  %s", page.Code, page.Title); err != nil {
			return err
		}
	}
	return nil
}

// grammarText is the grammar as one page, from the parser's own tables.
func grammarText() string {
	var b strings.Builder
	b.WriteString(`A sentence, the same on the command line, in the file and in the API:

  NAME: KIND LISTEN to TARGET{, TARGET} {MODIFIER [VALUE]}

LISTEN is [PLACE:]PORTS[/tcp|/udp|/tcp+udp] or unix:PATH. PORTS are numbers,
ranges (8000-8010), lists (80,443) or names (https). PLACE is an address, an
IPv6 address in brackets, an interface, wan, lan, or a declared place. A bare
port listens on this machine only, ":8080" at every address.

TARGET is HOST[:PORTS], [IPV6]:PORTS, self[:PORT] or unix:PATH, and may be
followed by "from CIDR": clients it is meant for. The port is the one that was
listened at unless it is named; a range leads to a range of the same length,
port by port, or to one port.

A target may also be followed by what its clients ask for: "sni NAME" (the
server name of TLS), "http-host NAME" (of the first request), "alpn NAME"
(offered within TLS), "protocol ssh|tls|http|other". Each may be repeated; one of
each kind that is said has to be met. "*.example.net" is every name below
example.net. The closest description counts, not the order; a target without any
takes the rest. Who says nothing for 3s ("greet") is "protocol other".

Kinds:
`)
	for _, k := range config.Kinds() {
		b.WriteString("  " + string(k.Kind) + " " + k.Syntax + "\n      " + k.Help + "\n")
	}
	b.WriteString("\nModifiers:\n")
	for _, m := range config.Modifiers() {
		b.WriteString(modifierLine(m))
	}
	b.WriteString("\nLines of a file that are no forwards:\n")
	for _, d := range config.Directives() {
		b.WriteString("  " + d.Word + " " + d.Syntax + "\n      " + d.Help + "\n")
	}
	b.WriteString(`
Rare settings stand in a block, one on a line:

  pg: forward [::]:5432 to db-a:5432, db-b:5432 {
      policy failover
      connect 2s
  }

Comments begin with "#".
`)
	return b.String()
}
