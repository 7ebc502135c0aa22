package nft

import (
	"strings"
)

// Words is a rule that was read as people write it: shorter than Text where
// nft(8) has a shorter form, and not to be loaded.
func (r *Rule) Words() string {
	proto := r.proto()
	var words []string
	for _, e := range r.Exprs {
		is, ok := e.(Is)
		switch {
		case !ok:
			words = append(words, exprText(e))
		case proto != "" && is.Key == L4Proto: // the ports say it
		case proto != "" && (is.Key == Sport || is.Key == Dport):
			words = append(words, proto+strings.TrimPrefix(exprText(is), "th"))
		case len(is.Values) == 1 && is.Values[0].Last != "":
			words = append(words, is.prefixText())
		default:
			words = append(words, exprText(is))
		}
	}
	if r.Comment != "" {
		words = append(words, "comment "+quoted(r.Comment))
	}
	return strings.Join(words, " ")
}

// proto is "tcp" or "udp" when the rule asks for that alone and then for ports.
func (r *Rule) proto() (name string) {
	for _, e := range r.Exprs {
		is, ok := e.(Is)
		switch {
		case !ok:
		case is.Key == L4Proto:
			if name != "" || is.Not || len(is.Values) != 1 || !is.Values[0].one() {
				return ""
			}
			switch is.Values[0].First {
			case "\x06":
				name = "tcp"
			case "\x11":
				name = "udp"
			default:
				return ""
			}
		case is.Key == Sport || is.Key == Dport:
			return name
		}
	}
	return ""
}

// prefixText is a comparison with a range, as a prefix where it is one.
func (e Is) prefixText() string {
	k := e.Key.info()
	return k.text + " " + notText(e.Not) + rangeText(k.kind, e.Values[0], true)
}
