package place

import (
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A reply is what one DNS message says about how long its answer holds.
type reply struct {
	rcode     dnsmessage.RCode
	truncated bool
	addresses int           // A and AAAA records in the answer
	ttl       time.Duration // the least of its A, AAAA, CNAME and SRV records; 0 when there are none
	negative  time.Duration // how long a "no" holds (RFC 2308 §5); 0 when the message does not say
}

// usable says whether the reply settles its question, with yes or with no.
func (r reply) usable() bool {
	return !r.truncated && (r.rcode == dnsmessage.RCodeSuccess || r.rcode == dnsmessage.RCodeNameError)
}

// readReply reads msg, a DNS message without the length that precedes it on
// TCP, as the answer to the question q asked with id. It is false for anything
// else: forged, about something else, or not a message. Records after a
// malformed one are not read; those before it count.
func readReply(msg []byte, id uint16, q dnsmessage.Question) (reply, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != id {
		return reply{}, false
	}
	asked, err := p.Question()
	if err != nil || asked.Type != q.Type || asked.Class != q.Class ||
		!strings.EqualFold(asked.Name.String(), q.Name.String()) {
		return reply{}, false
	}
	r := reply{rcode: h.RCode, truncated: h.Truncated}
	if p.SkipAllQuestions() != nil {
		return r, true
	}
	for {
		rr, err := p.AnswerHeader()
		if err != nil {
			break
		}
		if rr.Class == dnsmessage.ClassINET {
			switch rr.Type {
			case dnsmessage.TypeA, dnsmessage.TypeAAAA:
				r.addresses++
				r.ttl = leastTTL(r.ttl, rr.TTL)
			case dnsmessage.TypeCNAME, dnsmessage.TypeSRV:
				r.ttl = leastTTL(r.ttl, rr.TTL)
			}
		}
		if p.SkipAnswer() != nil {
			break
		}
	}
	for {
		rr, err := p.AuthorityHeader()
		if err != nil {
			break
		}
		if rr.Type != dnsmessage.TypeSOA {
			if p.SkipAuthority() != nil {
				break
			}
			continue
		}
		if soa, err := p.SOAResource(); err == nil {
			r.negative = min(seconds(rr.TTL), seconds(soa.MinTTL))
		}
		break
	}
	return r, true
}

// leastTTL is the lesser of least, 0 for none yet, and ttl seconds. A TTL of
// 0 counts as the shortest time that is ever kept.
func leastTTL(least time.Duration, ttl uint32) time.Duration {
	t := max(seconds(ttl), minTTL)
	if least == 0 {
		return t
	}
	return min(least, t)
}

// seconds is a TTL as a duration. Those of 2^31 and more are taken as very
// long and not as zero (RFC 8767 §4); the cache has its own bound.
func seconds(ttl uint32) time.Duration { return time.Duration(ttl) * time.Second }
