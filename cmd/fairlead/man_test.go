package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var writeMan = flag.Bool("man", false, "write docs/man anew")

// TestManPagesAreThoseOfTheHelp keeps docs/man equal to what --help says: the
// pages are made from the same commands. "make man" writes them.
func TestManPagesAreThoseOfTheHelp(t *testing.T) {
	dir := filepath.Join("..", "..", "docs", "man")
	pages := manPages(t)
	if *writeMan {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		old, _ := filepath.Glob(filepath.Join(dir, "*.[15]"))
		for _, name := range old {
			os.Remove(name)
		}
		for name, text := range pages {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.[15]"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != len(pages) {
		t.Errorf("docs/man has %d pages, the program %d: run make man", len(found), len(pages))
	}
	for name, want := range pages {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("docs/man/%s is not what the help says: run make man (%v)", name, err)
		}
	}
}

// manPages are the pages by file name.
func manPages(t *testing.T) map[string][]byte {
	p := newProgram(context.Background(), os.Stdout, os.Stderr, func(string) string { return "" })
	p.setTalk()
	pages := map[string][]byte{}
	var add func(c *cobra.Command)
	add = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		pages[strings.ReplaceAll(c.CommandPath(), " ", "-")+".1"] = manPage(t, c, "1")
		for _, sub := range c.Commands() {
			add(sub)
		}
	}
	add(p.commands())
	file := &cobra.Command{
		Use:   "fairlead.conf",
		Short: "the file of forwards",
		Long:  "    " + strings.ReplaceAll(grammarText(), "\n", "\n    "),
	}
	pages["fairlead.conf.5"] = manPage(t, file, "5")
	return pages
}

func manPage(t *testing.T, c *cobra.Command, section string) []byte {
	t.Helper()
	c.DisableAutoGenTag = true
	var b bytes.Buffer
	header := &doc.GenManHeader{Title: strings.ToUpper(strings.ReplaceAll(c.CommandPath(), " ", "-")), Section: section, Source: "fairlead", Manual: "fairlead"}
	if err := doc.GenMan(c, header, &b); err != nil {
		t.Fatal(err)
	}
	// The date is that of the build, which says nothing about the text.
	lines := strings.SplitAfter(b.String(), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".TH ") {
			fields := strings.Split(line, "\"")
			if len(fields) > 5 {
				fields[5] = ""
				lines[i] = strings.Join(fields, "\"")
			}
		}
	}
	return []byte(strings.Join(lines, ""))
}
