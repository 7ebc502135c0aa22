package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fairlead/bench/load"
	"fairlead/bench/peers"
)

func main() {
	// The programs that the benchmark starts in its namespaces are this one.
	if len(os.Args) > 1 {
		if role := roles[os.Args[1]]; role != nil {
			exitOn(role(os.Args[2:]))
			return
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := options(os.Args[1:])
	if err == nil {
		err = bench(ctx, o)
	}
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "bench: stopped; everything it made is removed")
		os.Exit(130)
	}
	exitOn(err)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var roles = map[string]func(args []string) error{
	"serve": serveRole,
	"load":  loadRole,
	"plain": plainRole,
}

// serveRole is the server: "serve ADDRESS PORT…".
func serveRole(args []string) error {
	addr, err := netip.ParseAddr(args[0])
	if err != nil {
		return err
	}
	var ports []uint16
	for _, a := range args[1:] {
		p, err := strconv.ParseUint(a, 10, 16)
		if err != nil {
			return err
		}
		ports = append(ports, uint16(p))
	}
	return load.Serve(addr, ports, os.Stdin, os.Stdout)
}

// loadRole is a client: "load ORDER", the order as JSON.
func loadRole(args []string) error {
	var o load.Order
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return err
	}
	return load.Run(o, os.Stdin, os.Stdout)
}

// plainRole is the plain Go forwarder: "plain tcp|udp LISTEN TARGET".
func plainRole(args []string) error {
	if args[0] == "udp" {
		return plainUDP(args[1], args[2])
	}
	return plainTCP(args[1], args[2])
}

// An option is what the command line asks for.
type option struct {
	args     []string // as they were given
	rounds   int
	time     time.Duration
	works    map[string]bool
	peers    []peers.Peer
	fairlead string
	json     string
	write    string
	marks    string
	again    bool
	keep     bool
	quick    bool
}

// allWorks are the names of -works.
var allWorks = []string{"bulk", "rr", "conn", "idle", "udp", "gso", "forwards", "kernel", "congestion"}

func options(args []string) (option, error) {
	o := option{args: args}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 5, "rounds; each visits every forwarder with every work")
	f.DurationVar(&o.time, "time", time.Second, "time of one cell (a forwarder with a work), without the warm-up")
	works := f.String("works", strings.Join(allWorks, ","), "what is measured")
	var names []string
	for _, p := range peers.All {
		names = append(names, p.Name)
	}
	with := f.String("peers", strings.Join(names, ","), "whom fairlead is compared with, beside the plain route")
	f.StringVar(&o.fairlead, "fairlead", "", "the program to measure (default: ./cmd/fairlead, built now)")
	f.StringVar(&o.json, "json", "", "write all figures to this file")
	f.StringVar(&o.write, "write", "", "put the table into this file, between its two marks")
	f.StringVar(&o.marks, "marks", "bench", "the name of the marks")
	f.BoolVar(&o.again, "again", true, "measure once more what was disturbed: where the plain route varied by more than a quarter")
	f.BoolVar(&o.keep, "keep", false, "at the end leave everything running until Ctrl-C, to look at it")
	f.BoolVar(&o.quick, "quick", false, "about two minutes: fewer works and peers, 4 rounds of 0.3 s")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if o.quick {
		if !given["rounds"] {
			o.rounds = 4
		}
		if !given["time"] {
			o.time = 300 * time.Millisecond
		}
		if !given["again"] {
			o.again = false
		}
		if !given["peers"] {
			*with = "haproxy-tuned,nginx"
		}
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag", f.Arg(0))
	}
	if o.rounds < 1 || o.rounds > 100 || o.time < 100*time.Millisecond || o.time > time.Minute {
		return o, errors.New("rounds are 1 to 100, of 100ms to 1m")
	}
	o.works = map[string]bool{}
	for _, w := range strings.Split(*works, ",") {
		known := false
		for _, k := range allWorks {
			known = known || k == w
		}
		if !known {
			return o, fmt.Errorf("%q is no work; there are %s", w, strings.Join(allWorks, ", "))
		}
		o.works[w] = true
	}
	for _, name := range strings.Split(*with, ",") {
		if name == "" {
			continue
		}
		p, ok := peers.Find(name)
		if !ok {
			return o, fmt.Errorf("%q is no peer; there are %s", name, strings.Join(names, ", "))
		}
		o.peers = append(o.peers, p)
	}
	return o, nil
}
