package sniff

import (
	"errors"
	"strings"
)

// hostName brings a host name into the form in which names are compared: lower
// case, without the trailing dot. It takes letters, digits, hyphens and
// underscores in labels of 1 to 63 bytes, 253 bytes in all, so international
// names in their ASCII form. What some resolver would read as an IP address,
// such as 127.1 or 0x7f000001, is no name.
func hostName(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return "", errors.New("a host name has 1 to 253 bytes")
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return "", errors.New("a label of a host name has 1 to 63 bytes")
		}
		for i := range len(label) {
			switch c := label[i]; {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-' && i > 0:
			default:
				return "", errors.New("a host name consists of letters, digits, hyphens and underscores")
			}
		}
		last = label
	}
	if isNumber(last) {
		return "", errors.New("a host name does not end with a number")
	}
	return strings.ToLower(s), nil
}

// isNumber reports whether inet_aton(3) would take the last part of a name for
// a number.
func isNumber(s string) bool {
	digits := "0123456789"
	if len(s) > 1 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X') {
		s, digits = s[2:], "0123456789abcdefABCDEF"
	}
	return strings.Trim(s, digits) == ""
}
