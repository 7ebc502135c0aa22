package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"fairlead"
)

// Bounds of what one file may include.
const (
	maxDepth    = 8
	maxIncluded = 1000
	maxTotal    = 64 << 20
)

// include reads "include GLOB" and the files that it means.
func (l *loader) include(p *parser) {
	word := p.toks[0]
	t, ok := p.value(word, "GLOB")
	if !ok || !p.notEmpty(t) || !p.nothingElse() {
		return
	}
	l.includeFiles(p, t)
}

func (l *loader) includeFiles(p *parser, t token) {
	if !l.followed {
		l.file.Include = append(l.file.Include, t.text)
		return
	}
	if len(l.stack) > maxDepth {
		p.bad(fairlead.CodeInclude, t, "includes lie more than %d deep", maxDepth)
		return
	}
	pattern := t.text
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(p.src.name), pattern)
	}
	paths, err := filepath.Glob(pattern)
	if err != nil {
		p.bad(fairlead.CodeInclude, t, "%s is not a pattern of file names", shown(t.text))
		return
	}
	if len(paths) == 0 && !strings.ContainsAny(t.text, `*?[`) {
		p.bad(fairlead.CodeInclude, t, "there is no file %s", pattern)
		return
	}
	for _, path := range paths {
		l.includeFile(p, t, path)
	}
}

func (l *loader) includeFile(p *parser, t token, path string) {
	real := absolute(path)
	switch {
	case slices.Contains(l.stack, real):
		p.bad(fairlead.CodeInclude, t, "%s includes itself", path)
		return
	case slices.Contains(l.file.Files, path):
		p.bad(fairlead.CodeInclude, t, "%s is included twice", path)
		return
	case len(l.file.Files) > maxIncluded:
		p.bad(fairlead.CodeInclude, t, "more than %d files are included", maxIncluded)
		return
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		p.bad(fairlead.CodeInclude, t, "cannot read %s: %v", path, reason(err))
		return
	case !info.Mode().IsRegular():
		p.bad(fairlead.CodeInclude, t, "%s is not a file", path)
		return
	case info.Mode().Perm()&0o002 != 0 && runtime.GOOS != "windows":
		p.bad(fairlead.CodeInclude, t, "%s may be written by everybody", path).fix("take that right away", "chmod o-w "+path)
		return
	}
	text, err := readFile(path)
	if err != nil {
		p.bad(fairlead.CodeInclude, t, "cannot read %s: %v", path, reason(err))
		return
	}
	l.file.Files = append(l.file.Files, path)
	l.stack = append(l.stack, real)
	// The statement that includes is not over: it goes on with its own tokens.
	toks, saved := l.toks, *p
	l.toks = nil
	l.read(&source{name: path, text: string(text)})
	l.toks, *p = toks, saved
	l.stack = l.stack[:len(l.stack)-1]
}

var errTooLarge = fmt.Errorf("more than %d MiB", maxFile>>20)

// readFile reads at most maxFile bytes.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, errTooLarge
	}
	return text, nil
}

// reason is an error of the file system without the operation and the path,
// which the message has already.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
