//go:build unix

package control

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLockOfARemovedFileDoesNotCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.lock")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !stillThere(f, path) {
		t.Error("the file is there")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if stillThere(f, path) {
		t.Error("the file is gone")
	}
	g, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if stillThere(f, path) {
		t.Error("another file took its name")
	}
}
