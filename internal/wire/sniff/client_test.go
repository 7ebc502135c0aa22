package sniff

import (
	"bufio"
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"os"
	"strings"
	"testing"
)

// captured are the first bytes of real clients; see the file for how they were
// made.
func captured(t testing.TB) map[string][]byte {
	t.Helper()
	f, err := os.Open("testdata/clients.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string][]byte{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, code, ok := strings.Cut(s.Text(), " "); ok && name != "#" {
			if all[name], err = hex.DecodeString(code); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

// A listening takes what a client writes and never answers. The other methods
// of net.Conn are not called.
type listening struct {
	net.Conn
	bytes.Buffer
}

func (l *listening) Write(b []byte) (int, error) { return l.Buffer.Write(b) }
func (l *listening) Read([]byte) (int, error)    { return 0, io.EOF }
func (l *listening) Close() error                { return nil }

// goHello is the ClientHello that crypto/tls makes of that configuration.
func goHello(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	if c.ServerName == "" {
		c.InsecureSkipVerify = true // it asks for one of both
	}
	var to listening
	if err := tls.Client(&to, c).Handshake(); err != io.EOF || to.Len() == 0 {
		t.Fatalf("handshake with nobody: %v after %d bytes", err, to.Len())
	}
	return to.Bytes()
}

// echConfigs is a list of one configuration for Encrypted Client Hello with a
// fresh key (RFC 9849 section 4).
func echConfigs(t testing.TB, public string) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	config := []byte{7}                                       // config_id
	config = append(config, 0x00, 0x20)                       // X25519, HKDF-SHA256
	config = vector16(config, key.PublicKey().Bytes())        //
	config = vector16(config, []byte{0x00, 0x01, 0x00, 0x01}) // HKDF-SHA256, AES-128-GCM
	config = append(config, 32, byte(len(public)))            // maximum_name_length
	config = append(config, public...)                        //
	config = vector16(config, nil)                            // extensions
	return vector16(nil, vector16([]byte{0xfe, 0x0d}, config))
}

func vector16(b, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

func vector8(b []byte, data string) []byte { return append(append(b, byte(len(data))), data...) }

// An extension for hello.
type extension struct {
	kind uint16
	data []byte
}

// hello is a ClientHello in one record, with these extensions.
func hello(exts ...extension) []byte {
	var list []byte
	for _, e := range exts {
		list = vector16(binary.BigEndian.AppendUint16(list, e.kind), e.data)
	}
	return helloOf(vector16(helloStart(), list))
}

// helloStart is the body of a ClientHello up to its extensions.
func helloStart() []byte {
	b := append([]byte{3, 3}, make([]byte, 32)...)
	b = vector8(b, strings.Repeat("s", 32))
	b = vector16(b, []byte{0x0a, 0x0a, 0x13, 0x01, 0x13, 0x02})
	return vector8(b, "\x00")
}

// helloOf makes a message and a record of a body.
func helloOf(body []byte) []byte {
	msg := append([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
	return vector16([]byte{22, 3, 1}, msg)
}

func sni(names ...string) extension {
	var list []byte
	for _, n := range names {
		list = vector16(append(list, 0), []byte(n))
	}
	return extension{0, vector16(nil, list)}
}

func alpn(names ...string) extension {
	var list []byte
	for _, n := range names {
		list = vector8(list, n)
	}
	return extension{16, vector16(nil, list)}
}

// records spreads the message of a hello in one record over records of size
// bytes.
func records(hello []byte, size int) []byte {
	var out []byte
	for msg := hello[5:]; len(msg) > 0; {
		k := min(size, len(msg))
		out = vector16(append(out, 22, 3, 3), msg[:k])
		msg = msg[k:]
	}
	return out
}
