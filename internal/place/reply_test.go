package place

import (
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

var asked = dnsmessage.Question{
	Name: dnsmessage.MustNewName("db.test."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
}

func TestRepliesThatAreNotToTheQuestionDoNotCount(t *testing.T) {
	r := records{addrs: []string{"10.0.0.4"}, ttl: 60}
	other, six := asked, asked
	other.Name = dnsmessage.MustNewName("dc.test.")
	six.Type = dnsmessage.TypeAAAA
	query := build(7, asked, r, false)
	query[2] &^= 0x80 // QR
	for what, msg := range map[string][]byte{
		"another id":     build(8, asked, r, false),
		"another name":   build(7, other, r, false),
		"another type":   build(7, six, r, false),
		"a question":     query,
		"half a header":  build(7, asked, r, false)[:7],
		"nothing at all": nil,
	} {
		if got, ok := readReply(msg, 7, asked); ok {
			t.Errorf("%s: taken as %+v", what, got)
		}
	}
	upper := asked
	upper.Name = dnsmessage.MustNewName("DB.Test.")
	if got, ok := readReply(build(7, upper, r, false), 7, asked); !ok || got.ttl != time.Minute || got.addresses != 1 {
		t.Errorf("the true one: %+v, %v", got, ok)
	}
}

func FuzzReadReply(f *testing.F) {
	for _, r := range []records{
		{addrs: []string{"10.0.0.4", "10.0.0.5"}, ttl: 60},
		{addrs: []string{"10.0.0.4"}, ttl: 1<<32 - 1, cname: "real.test", cnameTTL: 20},
		{rcode: dnsmessage.RCodeNameError, negative: 600},
		{rcode: dnsmessage.RCodeServerFailure},
	} {
		f.Add(build(7, asked, r, false))
	}
	f.Add(build(7, asked, records{}, true))
	f.Fuzz(func(t *testing.T, msg []byte) {
		r, ok := readReply(msg, 7, asked)
		if !ok {
			if r != (reply{}) {
				t.Errorf("refused, and yet %+v", r)
			}
			return
		}
		if r.ttl < 0 || r.negative < 0 || r.addresses > 0 && r.ttl < minTTL {
			t.Errorf("impossible: %+v", r)
		}
		// A second reader, that of whole messages, sees the same.
		var m dnsmessage.Message
		if m.Unpack(msg) != nil {
			return
		}
		addresses, least := 0, time.Duration(0)
		for _, rr := range m.Answers {
			if rr.Header.Class != dnsmessage.ClassINET {
				continue
			}
			switch rr.Header.Type {
			case dnsmessage.TypeA, dnsmessage.TypeAAAA:
				addresses++
				fallthrough
			case dnsmessage.TypeCNAME:
				if ttl := max(time.Duration(rr.Header.TTL)*time.Second, minTTL); least == 0 || ttl < least {
					least = ttl
				}
			}
		}
		if r.addresses != addresses || r.ttl != least {
			t.Errorf("read %+v, the message has %d addresses and holds %v", r, addresses, least)
		}
	})
}
