package sniff

import "strings"

// What [Protocol] can answer.
const (
	SSH   = "ssh"
	TLS   = "tls"
	HTTP  = "http" // 1.0, 1.1, or 2 by prior knowledge
	Other = "other"
)

// methods are the registered ones (IANA's HTTP Method Registry) that ask for
// a resource. Extension methods cannot be told from the words of other
// protocols.
var methods = []string{
	"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "QUERY",
	"ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "LOCK", "MERGE",
	"MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PROPFIND",
	"PROPPATCH", "REBIND", "REPORT", "SEARCH", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE",
	"UPDATEREDIRECTREF", "VERSION-CONTROL",
}

// Protocol tells SSH, TLS and HTTP apart, and all of them from others, by the
// first bytes: one to six mostly, at most 26. The error is nil or [ErrShort].
//
// HTTP is what begins with a registered method and a target of HTTP: SIP, RTSP
// and ICAP differ from it in nothing else. Of TLS the first two bytes are
// enough; the hello of SSLv2 is something other.
func Protocol(b []byte) (string, error) {
	short := false
	begins := func(word string) bool {
		if len(b) < len(word) {
			short = short || strings.HasPrefix(word, string(b))
			return false
		}
		return string(b[:len(word)]) == word
	}
	switch {
	case begins("SSH-"):
		return SSH, nil
	case begins("\x16\x03"):
		return TLS, nil
	case begins(preface), begins("OPTIONS * HTTP/1."):
		return HTTP, nil
	case begins("CONNECT "):
		switch {
		case len(b) == len("CONNECT "):
			return "", ErrShort
		case isVisible(b[len("CONNECT ")]):
			return HTTP, nil
		}
		return Other, nil
	}
	for _, m := range methods {
		if len(b) > 0 && b[0] != m[0] || !begins(m) {
			continue
		}
		rest := b[len(m):]
		for _, target := range []string{" /", " http://", " https://"} {
			k := min(len(rest), len(target))
			if !strings.EqualFold(string(rest[:k]), target[:k]) {
				continue
			}
			if k == len(target) {
				return HTTP, nil
			}
			short = true
		}
	}
	if short {
		return "", ErrShort
	}
	return Other, nil
}
