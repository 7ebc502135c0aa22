package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"fairlead"
)

// Files are those that something was read from, and how they were then.
type files struct {
	paths []string
	seen  []fs.FileInfo // nil for one that was not there
	at    time.Time
}

// settled is how old a change must be to be seen for sure by a file's time.
const settled = 2 * time.Second

// watch adds paths; an empty one is none.
func (f *files) watch(paths ...string) {
	for _, p := range paths {
		if p != "" {
			f.paths = append(f.paths, p)
		}
	}
}

// note remembers the files as they are. It has to come before reading them: a
// change in between is then seen the next time.
func (f *files) note(now time.Time) {
	f.seen = f.seen[:0]
	for _, p := range f.paths {
		info, err := os.Stat(p)
		if err != nil {
			info = nil
		}
		f.seen = append(f.seen, info)
	}
	f.at = now
}

// changed reports whether the files are others than at the last note, or were
// so young then that a change may have escaped it, and notes them.
func (f *files) changed(now time.Time) bool {
	was, at := append([]fs.FileInfo(nil), f.seen...), f.at
	f.note(now)
	for i, info := range f.seen {
		old := was[i]
		switch {
		case (info == nil) != (old == nil):
			return true
		case info == nil:
		case !os.SameFile(info, old), info.Size() != old.Size(), !info.ModTime().Equal(old.ModTime()), info.Mode() != old.Mode():
			return true
		case at.Sub(info.ModTime()).Abs() < settled:
			return true
		}
	}
	return false
}

// maxFile is far more than certificates need.
const maxFile = 4 << 20

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		var b []byte
		if b, err = io.ReadAll(io.LimitReader(f, maxFile+1)); err == nil && len(b) <= maxFile {
			return b, nil
		}
		if err == nil {
			err = fmt.Errorf("it has more than %d MiB", maxFile>>20)
		}
	}
	p := fairlead.Problemf(fairlead.CodeCertificate, "%s cannot be read: %v", path, cause(err))
	p.Err = err
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Fix("correct the path; a relative one begins in the directory where the program was started", "")
	case errors.Is(err, fs.ErrPermission):
		p.Fix("let the user of the program read it", fmt.Sprintf("sudo setfacl -m u:%s:r %s", userName(), path))
	}
	return nil, p
}

// cause is an error without the operation and the path, which are told anyway.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// readPair reads a certificate with its chain, and its key, from the same file
// when key is "". Open is the key's file if every user of the machine may read
// it.
func readPair(cert, key string) (pair tls.Certificate, open string, err error) {
	chain, err := readFile(cert)
	if err != nil {
		return pair, "", err
	}
	secret := chain
	if key == "" {
		key = cert
	} else if secret, err = readFile(key); err != nil {
		return pair, "", err
	}
	switch {
	case !has(chain, "CERTIFICATE"):
		return pair, "", unusable("%s holds no certificate in PEM form", cert)
	case !has(secret, "PRIVATE KEY") && key == cert:
		return pair, "", unusable("%s holds no key", cert).Fix("name the file that does", "tls-key FILE")
	case !has(secret, "PRIVATE KEY"):
		return pair, "", unusable("%s holds no key in PEM form", key)
	case bytes.Contains(secret, []byte("ENCRYPTED")):
		return pair, "", unusable("the key in %s has a password", key).
			Fix("take it off, and keep the file to yourself", fmt.Sprintf("openssl pkey -in %s -out %s.plain", key, key))
	}
	pair, err = tls.X509KeyPair(chain, secret)
	switch {
	case err == nil:
	case strings.Contains(err.Error(), "does not match"):
		p := unusable("the key in %s is not the one of the certificate in %s", key, cert)
		p.Err = err
		return pair, "", p
	default:
		p := unusable("%s and %s are no certificate and key: %v", cert, key, err)
		p.Err = err
		return pair, "", p
	}
	if pair.Leaf == nil { // as with GODEBUG=x509keypairleaf=0
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return pair, "", unusable("%s holds no valid certificate: %v", cert, err)
		}
	}
	if info, err := os.Stat(key); err == nil && runtime.GOOS != "windows" && info.Mode()&0o004 != 0 {
		open = key
	}
	return pair, open, nil
}

// has reports whether a PEM block whose type ends so is in b.
func has(b []byte, kind string) bool {
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return false
		}
		if strings.HasSuffix(block.Type, kind) {
			return true
		}
	}
}

// readPool reads the authorities in a file.
func readPool(path string) (*x509.CertPool, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, unusable("%s holds no certificate of an authority in PEM form", path)
	}
	return pool, nil
}

func unusable(format string, args ...any) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeCertificate, format, args...)
}
