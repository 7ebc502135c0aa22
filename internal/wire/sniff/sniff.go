// Package sniff looks at the first bytes that a client sends and says which
// protocol it speaks and which name it asks for, so that one port can serve
// many targets: [Protocol] for the protocol, [ClientHello] for the server name
// and ALPN of TLS, [HTTPHead] for the host of HTTP.
//
// It is bytes in, values out: the caller keeps the bytes and hands all of them
// to the target. It terminates no TLS, takes part in no HTTP, and corrects
// nothing. It never guesses either: whatever two readers could understand
// differently is malformed, because a client could otherwise be let in under
// one name and served under another.
//
// Every function is given all bytes so far, and answers with a value and nil;
// with [ErrShort], when more bytes are needed; with [ErrNot], when this is
// another protocol; or with another error, a sentence about what is malformed,
// upon which the connection is to be closed. Any answer but ErrShort is final:
// it depends on the bytes alone, not on how they were split when they arrived,
// and more bytes do not change it. After [Limit] bytes ErrShort is not
// answered any more. How long to wait for a client is the caller's to decide;
// one that lets the server speak first sends nothing at all.
package sniff

import "errors"

// Limit is how many bytes, 16 KiB, a decision may need. Hellos with
// post-quantum key shares have 1.5 to 2.5 kB.
const Limit = 16 << 10

var (
	// ErrShort says that the bytes so far leave more than one answer.
	ErrShort = errors.New("the client has not sent enough to tell")
	// ErrNot says that the client speaks another protocol.
	ErrNot = errors.New("the client speaks another protocol")
)
