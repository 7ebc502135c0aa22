package nft

import "strings"

// Words is a rule that was read as people write it: shorter than Text where
// nft(8) has a shorter form, and never to be loaded.
func (r *Rule) Words() string {
	var words []string
	for i := 0; i < len(r.Exprs); i++ {
		// meta l4proto tcp th dport 80: tcp dport 80
		if proto := onlyProto(r.Exprs[i]); proto != "" && i+1 < len(r.Exprs) {
			if is, ok := r.Exprs[i+1].(Is); ok && (is.Key == Sport || is.Key == Dport) {
				words = append(words, proto+strings.TrimPrefix(exprText(is), "th"))
				i++
				for i+1 < len(r.Exprs) { // the other port
					is, ok := r.Exprs[i+1].(Is)
					if !ok || is.Key != Sport && is.Key != Dport {
						break
					}
					words = append(words, proto+strings.TrimPrefix(exprText(is), "th"))
					i++
				}
				continue
			}
		}
		words = append(words, exprText(r.Exprs[i]))
	}
	if r.Comment != "" {
		words = append(words, "comment "+quoted(r.Comment))
	}
	return strings.Join(words, " ")
}

// onlyProto is "tcp" or "udp" where the expression asks for that alone.
func onlyProto(e Expr) string {
	is, ok := e.(Is)
	if !ok || is.Key != L4Proto || is.Not || len(is.Values) != 1 || !is.Values[0].one() {
		return ""
	}
	switch is.Values[0].First {
	case "\x06":
		return "tcp"
	case "\x11":
		return "udp"
	}
	return ""
}
