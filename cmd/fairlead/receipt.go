package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"

	"fairlead/internal/kernel"
)

// A receipt is what install did to a machine, and how it was before. It is
// written before anything is done, so that an installation that was killed can
// be uninstalled. It is not in the service's own state directory: what root
// puts back must not be for the service to say.
type receipt struct {
	Schema string        `json:"schema"`
	Config string        `json:"config"`
	Files  []receiptFile `json:"files"`
	Dirs   []string      `json:"dirs"` // made, the highest first
	User   bool          `json:"user"` // the user was made, with its group
	Undo   []kernel.Undo `json:"undo"` // parameters, put back last first
}

// A receiptFile is a file that was written, or a link.
type receiptFile struct {
	Path string      `json:"path"`
	Sum  string      `json:"sum"`            // SHA-256 of what was written
	Was  *string     `json:"was,omitempty"`  // what it took the place of
	Mode fs.FileMode `json:"mode,omitempty"` // and the mode of that
}

const (
	receiptPath   = "/var/lib/fairlead-install.json"
	receiptSchema = "fairlead/receipt/1"
)

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// readReceipt is the receipt of an installation, or nil where there is none.
func readReceipt(t *tree) (*receipt, error) {
	text, ok, err := t.read(receiptPath)
	if err != nil || !ok {
		return nil, err
	}
	if st, err := t.stat(receiptPath); err != nil || st.Mode()&(fs.ModeType|0o022) != 0 || !ownFile(st) {
		return nil, fmt.Errorf("%s is not root's alone, and is not believed", t.shown(receiptPath))
	}
	var r receipt
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", t.shown(receiptPath), err)
	}
	if r.Schema != receiptSchema {
		return nil, fmt.Errorf("%s is of another version (%q)", t.shown(receiptPath), r.Schema)
	}
	return &r, nil
}

// write writes it; one that says nothing is removed.
func (r *receipt) write(t *tree) error {
	if len(r.Files)+len(r.Dirs)+len(r.Undo) == 0 && !r.User {
		return t.remove(receiptPath)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return t.write(receiptPath, string(text)+"\n", 0o600, -1)
}

func (r *receipt) clone() *receipt {
	c := *r
	c.Files, c.Dirs, c.Undo = slices.Clone(r.Files), slices.Clone(r.Dirs), slices.Clone(r.Undo)
	return &c
}

// file is what the receipt knows of a path, or nil.
func (r *receipt) file(path string) *receiptFile {
	if i := slices.IndexFunc(r.Files, func(f receiptFile) bool { return f.Path == path }); i >= 0 {
		return &r.Files[i]
	}
	return nil
}

// wrote remembers that text is written to path, where was is now. What an
// earlier installation found there stays remembered.
func (r *receipt) wrote(path, text string, was *string, mode fs.FileMode) {
	if f := r.file(path); f != nil {
		if was != nil && f.Sum != sumOf(*was) {
			f.Was, f.Mode = was, mode // somebody else's, replaced by force
		}
		f.Sum = sumOf(text)
		return
	}
	r.Files = append(r.Files, receiptFile{path, sumOf(text), was, mode})
}

// changes remembers how parameters were. The first record of each knows best.
func (r *receipt) changes(list []kernel.Undo) {
	for _, u := range list {
		if i := slices.IndexFunc(r.Undo, func(o kernel.Undo) bool { return o.Sysctl == u.Sysctl }); i >= 0 {
			r.Undo[i].New = u.New
			continue
		}
		r.Undo = append(r.Undo, u)
	}
}
