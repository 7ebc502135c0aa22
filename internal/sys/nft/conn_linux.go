package nft

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

var errNotYet = errors.New("nft: not there yet")

// conn is for the time being the program nft, where it changes something.
type conn struct {
	*socket
}

func open() (conn, error) {
	s, err := openSocket()
	return conn{s}, err
}

func (conn) replace(t *Table) error {
	free := *t
	free.Owned = false // the program would take the table with it
	return load(fmt.Sprintf("table %s %s\ndelete table %s %s\n%s", t.Family, t.Name, t.Family, t.Name, free.Text()))
}
func (conn) change(ch Change) error {
	var w text
	of := fmt.Sprintf("%s %s", ch.Family, ch.Table)
	w.line("table %s {", of)
	for i := range ch.AddHelpers {
		w.helper(&ch.AddHelpers[i])
	}
	for i := range ch.AddSets {
		bare := ch.AddSets[i]
		bare.Elements = nil
		w.set(&bare)
	}
	for i := range ch.AddChains {
		w.chain(&Chain{Name: ch.AddChains[i].Name})
	}
	w.line("}")
	for _, c := range ch.Refill {
		w.line("flush chain %s %s", of, c.Name)
	}
	w.line("table %s {", of)
	for i := range ch.AddSets {
		w.set(&ch.AddSets[i])
	}
	for i := range ch.AddChains {
		w.chain(&ch.AddChains[i])
	}
	for i := range ch.Refill {
		w.chain(&Chain{Name: ch.Refill[i].Name, Rules: ch.Refill[i].Rules})
	}
	w.line("}")
	if len(ch.Drop)+len(ch.Add)+len(ch.DropChains)+len(ch.DropSets) > 0 {
		return errNotYet
	}
	return load(w.String())
}
func (conn) delete(f Family, name string) error {
	return load(fmt.Sprintf("table %s %s\ndelete table %s %s\n", f, name, f, name))
}
func (c conn) id() uint32 { return c.port }

func load(script string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("nft -f: %w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}
