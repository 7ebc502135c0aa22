package sniff

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A Head is what an HTTP client asks for.
type Head struct {
	// Protocol is "http/1.0", "http/1.1" or, by prior knowledge, "h2", as in
	// ALPN. With "h2" the rest is empty: the name comes later, in a compressed
	// frame, and each request may have another.
	Protocol string

	Method string
	Target string // as the client wrote it

	// Host is the name in lower case without a trailing dot, or the address
	// without brackets, from the target when that has one (it then overrules
	// the Host field, RFC 9112 section 3.2.2), else from the Host field. It is
	// "" when there is none or an empty one. Port is 0 when none is given.
	Host string
	Port uint16
}

// preface is how HTTP/2 begins (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// maxMethod is the longest word that is waited for as a method, in bytes. The
// longest registered one has 17.
const maxMethod = 32

// HTTPHead reads the request line and the fields of a first request, in the
// strict form of RFC 9112: lines end with CRLF, are not folded, and nothing
// stands before the first. See the package for its errors; [ErrNot] is
// answered for what does not look like a request line. A Host field that is
// missing in HTTP/1.1, double or no host is malformed (section 3.2).
func HTTPHead(b []byte) (Head, error) {
	h, err := httpHead(b[:min(len(b), Limit)])
	if err == ErrShort && len(b) >= Limit {
		err = fmt.Errorf("not complete within %d bytes", Limit)
	}
	switch err {
	case nil:
		return h, nil
	case ErrShort, ErrNot:
		return Head{}, err
	}
	return Head{}, fmt.Errorf("HTTP request: %w", err)
}

func httpHead(b []byte) (Head, error) {
	if k := min(len(b), len(preface)); string(b[:k]) == preface[:k] {
		if k < len(preface) {
			return Head{}, ErrShort
		}
		return Head{Protocol: "h2"}, nil
	}
	h, at, err := requestLine(b)
	if err != nil {
		return Head{}, err
	}
	var host []byte
	hosts := 0
	for {
		line, size, err := cutLine(b[at:])
		if err != nil {
			return Head{}, err
		}
		at += size
		if len(line) == 0 {
			break
		}
		name, value, err := field(line)
		if err != nil {
			return Head{}, err
		}
		if strings.EqualFold(string(name), "Host") {
			host = value
			hosts++
		}
	}
	if hosts > 1 {
		return Head{}, errors.New("two Host fields")
	}
	if hosts == 0 && h.Protocol == "http/1.1" {
		return Head{}, errors.New("no Host field")
	}
	if err := h.findHost(string(host)); err != nil {
		return Head{}, err
	}
	return h, nil
}

// requestLine reads the first line (RFC 9112 section 3) and returns how many
// bytes it has with its end.
func requestLine(b []byte) (Head, int, error) {
	method := 0
	for method < len(b) && method <= maxMethod && isToken(b[method]) {
		method++
	}
	switch {
	case method > maxMethod:
		return Head{}, 0, ErrNot
	case method == len(b):
		return Head{}, 0, ErrShort
	case method == 0 || b[method] != ' ':
		return Head{}, 0, ErrNot
	case method+1 < len(b) && !isVisible(b[method+1]):
		return Head{}, 0, ErrNot
	}
	line, size, err := cutLine(b)
	if err == ErrShort {
		return Head{}, 0, err
	}
	space := bytes.LastIndexByte(line, ' ')
	version := string(line[space+1:])
	known := len(version) == 8 && version[:5] == "HTTP/" && isDigit(version[5]) && version[6] == '.' && isDigit(version[7])
	if !known {
		if p, _ := Protocol(line); p != HTTP {
			return Head{}, 0, ErrNot
		}
	}
	switch {
	case err != nil:
		return Head{}, 0, err
	case !known:
		return Head{}, 0, errors.New("no version in its first line")
	case version != "HTTP/1.1" && version != "HTTP/1.0":
		return Head{}, 0, fmt.Errorf("version %s, not 1.0 or 1.1", version[5:])
	case space <= method:
		return Head{}, 0, errors.New("no target in its first line")
	}
	for _, c := range line[method+1 : space] {
		if !isVisible(c) {
			return Head{}, 0, fmt.Errorf("%q in its target", c)
		}
	}
	return Head{
		Protocol: "http/" + version[5:],
		Method:   string(line[:method]),
		Target:   string(line[method+1 : space]),
	}, size, nil
}

// cutLine is the line at the beginning of b, and its length with its end. With
// an error other than ErrShort the line is what stands before the bad end.
func cutLine(b []byte) (line []byte, size int, err error) {
	end := bytes.IndexAny(b, "\r\n")
	if end < 0 || b[end] == '\r' && end+1 == len(b) {
		return nil, 0, ErrShort
	}
	if b[end] == '\n' || b[end+1] != '\n' {
		return b[:end], 0, errors.New("a single CR or LF")
	}
	return b[:end], end + 2, nil
}

// field reads a field line (RFC 9112 section 5).
func field(line []byte) (name, value []byte, err error) {
	if line[0] == ' ' || line[0] == '\t' {
		return nil, nil, errors.New("a folded line")
	}
	name, value, ok := bytes.Cut(line, []byte{':'})
	if !ok || len(name) == 0 {
		return nil, nil, errors.New("a line that is no field")
	}
	for _, c := range name {
		if !isToken(c) {
			return nil, nil, fmt.Errorf("%q in the name of a field", c)
		}
	}
	for _, c := range value {
		if !isVisible(c) && c != ' ' && c != '\t' {
			return nil, nil, fmt.Errorf("%q in the value of a field", c)
		}
	}
	return name, bytes.Trim(value, " \t"), nil
}

// findHost takes the host from the target, or from the value of the Host
// field, which has to be right in any case.
func (h *Head) findHost(field string) error {
	var err error
	if field != "" {
		if h.Host, h.Port, err = authority(field); err != nil {
			return fmt.Errorf("host %q: %w", quotable([]byte(field)), err)
		}
	}
	in := ""
	switch scheme, rest, ok := strings.Cut(h.Target, "://"); {
	case h.Method == "CONNECT":
		in = h.Target
	case h.Target[0] == '/', h.Target == "*" && h.Method == "OPTIONS":
		return nil
	case ok && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")):
		in = rest
		if end := strings.IndexAny(rest, "/?"); end >= 0 {
			in = rest[:end]
		}
	default:
		return fmt.Errorf("target %q is no path and no URL", quotable([]byte(h.Target)))
	}
	if h.Host, h.Port, err = authority(in); err != nil {
		return fmt.Errorf("target %q: %w", quotable([]byte(h.Target)), err)
	}
	if h.Method == "CONNECT" && h.Port == 0 {
		return fmt.Errorf("target %q: no port", quotable([]byte(h.Target)))
	}
	return nil
}

// authority reads host and port (RFC 3986 section 3.2) without user
// information, which RFC 9110 section 4.2.4 takes for an attempt to deceive.
func authority(s string) (host string, port uint16, err error) {
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		if digits := s[i+1:]; digits != "" {
			n, err := strconv.ParseUint(digits, 10, 16)
			if err != nil || n == 0 || digits[0] == '0' {
				return "", 0, errors.New("the port is not a decimal number from 1 to 65535")
			}
			port = uint16(n)
		}
		s = s[:i]
	}
	host, err = hostOrAddr(s)
	return host, port, err
}

// hostOrAddr is hostName for where addresses are allowed too, those of IPv6 in
// brackets, which it removes.
func hostOrAddr(s string) (string, error) {
	if in, ok := strings.CutPrefix(s, "["); ok {
		in, ok = strings.CutSuffix(in, "]")
		a, err := netip.ParseAddr(in)
		if !ok || err != nil || !a.Is6() || a.Zone() != "" {
			return "", errors.New("what stands in brackets is no IPv6 address")
		}
		return a.String(), nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
		return a.String(), nil
	}
	return hostName(s)
}

// isToken reports whether c may stand in a method or the name of a field (RFC
// 9110 section 5.6.2).
func isToken(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || isDigit(c) || c != 0 && strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isVisible reports whether c is a printing character or, as servers bear,
// not ASCII.
func isVisible(c byte) bool { return c > ' ' && c != 0x7f }
