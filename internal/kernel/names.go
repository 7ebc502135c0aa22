package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"fairlead"
)

// nameLen is how long a forward's part in the names of its chains and sets may
// get, so that with what stands before and behind it they have at most 31
// bytes: older programs cut what is longer.
const nameLen = 19

// baseName is the beginning of the names of f's own chains and sets: "f_web".
// What follows it begins with a slash, which no forward's name has, so that
// nobody's chain is called as another's.
func (c *compiler) baseName(f *fairlead.Forward) string {
	name := f.Name
	if len(name) > nameLen || !isIdentifier(name) || c.names["f_"+name] {
		sum := sha256.Sum256([]byte(f.Owner.String() + "\x00" + f.Name))
		name = strings.Map(identifier, name)
		name = name[:min(len(name), nameLen-9)] + "_" + hex.EncodeToString(sum[:4])
	}
	base := "f_" + name
	for n := 2; c.names[base]; n++ { // the same name and owner twice
		base = "f_" + name[:min(len(name), nameLen-6)] + "_" + strconv.Itoa(n)
	}
	c.names[base] = true
	return base
}

// isIdentifier reports whether s can stand in a name of nft(8) as it is.
func isIdentifier(s string) bool { return s != "" && strings.Map(identifier, s) == s }

func identifier(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-', r == '.':
		return r
	}
	return '_'
}

// logPrefix is what log lines of f begin with. The kernel takes 127 bytes.
func logPrefix(f *fairlead.Forward) string {
	name := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '_'
		}
		return r
	}, f.Name)
	return "fairlead " + name[:min(len(name), 64)] + ": "
}
