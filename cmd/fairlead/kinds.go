package main

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/kernel"
	"fairlead/internal/relay"
)

// carriedKinds are the kinds that this version carries.
var carriedKinds = []fairlead.Kind{fairlead.KindForward, fairlead.KindNAT, fairlead.KindOpen, fairlead.KindTrigger, fairlead.KindHelper, fairlead.KindShare}

// kindCommands are the commands whose words are a sentence: the kinds. They
// take modifiers as flags, too, so that cobra's own flag parsing stays out.
func (p *program) kindCommands() []*cobra.Command {
	var list []*cobra.Command
	for _, k := range config.Kinds() {
		c := &cobra.Command{
			Use:                string(k.Kind) + " " + k.Syntax + " [MODIFIER ...]",
			Short:              k.Help,
			Hidden:             !slices.Contains(carriedKinds, k.Kind),
			DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error {
				own := newSentenceFlags(p, "oneshot")
				words, err := own.split(args)
				if err != nil {
					return usage(cmd, "%v", err)
				}
				if own.help {
					return cmd.Help()
				}
				p.setTalk()
				return p.oneShot(own, append([]string{string(k.Kind)}, words...))
			},
		}
		if k.Kind == fairlead.KindForward {
			c.GroupID = groupForward
			c.Example = `  fairlead forward 8080 to 192.168.1.10:80            # programs on this machine
  fairlead forward :8080 to web.lan:80                # everybody who reaches this machine
  fairlead forward 127.0.0.1:5353/udp to 9.9.9.9:53 idle 10s
  fairlead forward unix:/run/db.sock to db-a:5432, db-b:5432
  fairlead forward :443 to a.lan weight 3, b.lan, c.lan backup policy least-conn check tcp every 5s
  fairlead forward :8000-8010 to 10.0.0.4 from 10.0.0.0/8 --for 2h`
		}
		switch k.Kind {
		case fairlead.KindNAT:
			c.GroupID = groupForward
			c.Example = `  fairlead nat wan:8080 to 192.168.1.10:80            # from outside to a host of the LAN
  fairlead nat wan:25565/tcp+udp to 192.168.1.20 from 203.0.113.0/24
  fairlead nat 80 to self:8080                        # an unprivileged program on this host
  fairlead nat 10.0.0.3:80 to 10.0.0.4:8080 claim     # one LAN, an address that nobody has
  fairlead nat wan:2121 to 192.168.1.10:21 alg ftp`
		case fairlead.KindOpen:
			c.GroupID = groupForward
			c.Example = `  fairlead open wan:51413/tcp+udp to [2001:db8::20]     # through the guard of share, for IPv6
  fairlead open wan:22 to [2001:db8::20] from 2001:db8:5::/48 for 2h`
		case fairlead.KindHelper:
			c.GroupID = groupForward
			c.Example = `  fairlead helper lan:67/udp to 10.9.0.2, 10.9.0.3 option-82   # a relay of DHCP
  fairlead helper lan:547/udp to [2001:db8::9]                  # the same of DHCPv6
  fairlead helper lan:69/udp to 10.9.0.4                        # TFTP: who boots finds the server
  fairlead helper wlan0:9/udp to 192.168.1.255                  # Wake-on-LAN from one network to another
  fairlead helper lan:default-set/udp to 10.9.0.2 source keep   # as routers do: 37,49,53,67-69,137,138
  fairlead helper lan:239.1.2.3:5000/udp to 10.9.0.5            # a multicast group`
		case fairlead.KindTrigger:
			c.GroupID = groupForward
			c.Example = `  fairlead trigger 6667/tcp opens 113/tcp for 2m          # who talks IRC is asked who it is
  fairlead trigger 5060/udp opens 5060,10000-10100/udp for 2m keepalive 30s on lan`
		case fairlead.KindShare:
			c.GroupID = groupForward
			c.Example = `  fairlead share lan to wan                           # be the gateway of the LAN
  fairlead share br0 to eth0 unguarded`
		}
		c.Long = strings.ToUpper(k.Help[:1]) + k.Help[1:] + ".\n\n" + modifierHelp(k.Kind)
		newSentenceFlags(p, "oneshot").shown(c)
		list = append(list, c)
	}
	return list
}

// modifierHelp lists what can stand behind a sentence of that kind, and apart
// from it what this version understands and refuses.
func modifierHelp(kind fairlead.Kind) string {
	later := []string{"via"}
	if kind == fairlead.KindForward {
		later = append(later, relay.NotYet()...)
	}
	if kind == fairlead.KindNAT {
		later = append(later, kernel.NotYet()...)
	}
	var b strings.Builder
	var refused []string
	b.WriteString("Modifiers, as words (idle 2s) or as flags (--idle 2s):\n")
	for _, m := range config.Modifiers() {
		if !slices.Contains(m.Kinds, kind) {
			continue
		}
		if slices.Contains(later, m.Word) {
			refused = append(refused, m.Word)
			continue
		}
		b.WriteString(modifierLine(m))
	}
	if kind == fairlead.KindForward || kind == fairlead.KindNAT {
		b.WriteString("\nUnderstood, and refused by this version: " + strings.Join(refused, ", ") + ".\n")
	}
	return b.String()
}

func modifierLine(m config.Modifier) string {
	head := strings.TrimSpace(m.Word + " " + m.Value)
	if len(head) > 25 {
		head += "\n" + strings.Repeat(" ", 27)
	}
	return "  " + head + strings.Repeat(" ", max(1, 26-len(head))) + m.Help + "\n"
}

// sentenceFlags are the flags of the program itself that may stand among the
// words of a sentence.
type sentenceFlags struct {
	set  *pflag.FlagSet
	help bool

	name   string
	strict bool
	dryRun bool
	filter string
}

// newSentenceFlags makes the flags of a one-shot run, of plan, or of add and edit.
func newSentenceFlags(p *program, use string) *sentenceFlags {
	f := &sentenceFlags{set: pflag.NewFlagSet(use, pflag.ContinueOnError)}
	p.commonFlags(f.set)
	f.set.BoolVarP(&f.help, "help", "h", false, "how this command is called")
	f.set.StringVar(&f.name, "name", "", "name of the forward")
	switch use {
	case "oneshot", "plan":
		f.set.BoolVar(&f.strict, "strict", false, "half a success is a failure")
		f.set.StringSliceVar(&p.wan, "wan", nil, "interfaces that lead outside")
		f.set.StringSliceVar(&p.lan, "lan", nil, "interfaces that lead inside")
		if use == "plan" {
			f.set.StringVar(&f.filter, "for", "", "packet `filter`, this system's unless named: "+strings.Join(filterNames(), ", "))
		}
	case "change":
		f.set.BoolVarP(&f.dryRun, "dry-run", "n", false, "show the change and make none")
	}
	return f
}

// shown lists the flags in c's help.
func (f *sentenceFlags) shown(c *cobra.Command) {
	f.set.VisitAll(func(flag *pflag.Flag) {
		if c.Flags().Lookup(flag.Name) == nil {
			c.Flags().AddFlag(flag)
		}
	})
}

// split takes the program's flags out of args and returns the sentence's
// words. Whatever else begins with dashes is a modifier.
func (f *sentenceFlags) split(args []string) (words []string, err error) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			return append(words, args[i+1:]...), nil
		}
		flag, value, hasValue := f.lookup(a)
		if flag == nil {
			words = append(words, a)
			continue
		}
		own := []string{"--" + flag.Name}
		switch {
		case hasValue:
			own[0] += "=" + value
		case flag.NoOptDefVal == "" && i+1 < len(args):
			i++
			own = append(own, args[i])
		}
		if err := f.set.Parse(own); err != nil {
			return nil, err
		}
	}
	return words, nil
}

func (f *sentenceFlags) lookup(arg string) (flag *pflag.Flag, value string, hasValue bool) {
	switch {
	case strings.HasPrefix(arg, "--"):
		name, value, hasValue := strings.Cut(arg[2:], "=")
		return f.set.Lookup(name), value, hasValue
	case len(arg) >= 2 && arg[0] == '-':
		flag := f.set.ShorthandLookup(arg[1:2])
		if flag != nil && len(arg) > 2 {
			return flag, strings.TrimPrefix(arg[2:], "="), true
		}
		return flag, "", false
	}
	return nil, "", false
}

// commonFlags are known to every command.
func (p *program) commonFlags(set *pflag.FlagSet) {
	set.BoolVar(&p.json, "json", p.json, "print JSON")
	set.BoolVar(&p.plain, "plain", p.plain, "print tables as fields between tabs")
	set.BoolVar(&p.noColour, "no-color", p.noColour, "no colour")
	set.BoolVarP(&p.quiet, "quiet", "q", p.quiet, "no messages, only data, warnings and errors")
	set.BoolVarP(&p.verbose, "verbose", "v", p.verbose, "more messages")
	set.StringVarP(&p.config, "config", "c", p.config, "configuration `file`")
	set.StringVar(&p.socket, "socket", p.socket, "control socket of the service (`path`)")
	set.DurationVar(&p.timeout, "timeout", p.timeout, "how long to wait for the service")
}

// givenName is the name for a new forward: the one that was asked for, or one
// made from the sentence.
func givenName(asked string, f *fairlead.Forward, taken func(string) bool) string {
	if asked != "" {
		return asked
	}
	return config.MakeName(f, taken)
}

// drainTime is how long live connections get when the program is asked to
// end.
const drainTime = 10 * time.Second
