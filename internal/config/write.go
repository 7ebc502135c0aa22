package config

import (
	"bytes"
	"encoding/json"
	"strconv"

	"fairlead"
)

// ToJSON writes a configuration as JSON, without loss: [FromJSON] makes an
// equal one of it. What was included is part of it. Comments stay behind.
func ToJSON(file *File) ([]byte, error) {
	w := jsonWriter{}
	w.open('{')
	w.field("schema", SchemaName)
	if file.Version != 0 {
		w.key("version")
		w.raw(itoa(file.Version))
	}
	w.strings("wan", file.WAN)
	w.strings("lan", file.LAN)
	w.strings("include", file.Include)
	if len(file.Places) > 0 {
		w.key("places")
		w.open('[')
		for i := range file.Places {
			p := &file.Places[i]
			w.item()
			w.open('{')
			w.field("name", p.Name)
			w.field("type", p.Type)
			w.strings("to", p.To)
			for _, o := range p.Options {
				w.field(o.Word, o.Value)
			}
			w.close('}')
		}
		w.close(']')
	}
	if file.Registry.Type != "" {
		w.key("registry")
		w.open('{')
		w.field("type", file.Registry.Type)
		w.strings("to", file.Registry.To)
		w.close('}')
	}
	if len(said(&file.Defaults)) > 0 {
		w.key("defaults")
		w.open('{')
		w.modifiers(&file.Defaults)
		w.close('}')
	}
	w.key("forwards")
	w.open('[')
	for _, f := range file.Forwards {
		w.item()
		w.forward(file.written(f))
	}
	w.close(']')
	w.close('}')
	var out bytes.Buffer
	if err := json.Indent(&out, w.b, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// ForwardJSON writes one forward as it stands in a document.
func ForwardJSON(f *fairlead.Forward) []byte {
	var w jsonWriter
	w.forward(f)
	return w.b
}

// said are the modifiers that a forward says.
func said(f *fairlead.Forward) (list []*Modifier) {
	for i := range modifiers {
		if modifiers[i].field.said(f) {
			list = append(list, &modifiers[i])
		}
	}
	return list
}

// A jsonWriter appends JSON, with the fields in the order in which they are
// written.
type jsonWriter struct {
	b []byte
}

func (w *jsonWriter) open(c byte)  { w.b = append(w.b, c) }
func (w *jsonWriter) close(c byte) { w.b = append(w.b, c) }
func (w *jsonWriter) raw(s string) { w.b = append(w.b, s...) }

// item begins another item of a list.
func (w *jsonWriter) item() {
	if c := w.b[len(w.b)-1]; c != '[' && c != '{' {
		w.b = append(w.b, ',')
	}
}

func (w *jsonWriter) key(name string) {
	w.item()
	w.string(name)
	w.b = append(w.b, ':')
}

func (w *jsonWriter) field(name, value string) {
	w.key(name)
	w.string(value)
}

func (w *jsonWriter) string(s string) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	// A string always has a JSON form.
	_ = e.Encode(s)
	w.b = append(w.b, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

// strings writes a list, if there is anything in it.
func (w *jsonWriter) strings(name string, list []string) {
	if len(list) == 0 {
		return
	}
	w.key(name)
	w.open('[')
	for _, s := range list {
		w.item()
		w.string(s)
	}
	w.close(']')
}

func (w *jsonWriter) forward(f *fairlead.Forward) {
	w.open('{')
	w.field("name", f.Name)
	w.field("kind", string(f.Kind))
	if k := kindOf(string(f.Kind)); k == nil || k.listen != no {
		at := f.At
		if f.Kind == fairlead.KindTrigger {
			at = fairlead.Spot{Ports: at.Ports, Net: at.Net}
		}
		w.field("listen", at.String())
	} else {
		w.field("on", f.At.String())
	}
	if len(f.To) > 0 {
		w.key("to")
		w.open('[')
		for i := range f.To {
			t := &f.To[i]
			w.item()
			w.open('{')
			w.field("dest", t.Dest())
			for _, m := range targetWords {
				m.field.(targetField).jsonTarget(w, m.Word, t)
			}
			w.close('}')
		}
		w.close(']')
	}
	w.modifiers(f)
	w.users(f.Policy.Users)
	w.close('}')
}

func prefixTexts[P interface{ String() string }](list []P) (texts []string) {
	for _, p := range list {
		texts = append(texts, p.String())
	}
	return texts
}

func (w *jsonWriter) modifiers(f *fairlead.Forward) {
	for _, m := range said(f) {
		switch field := m.field.(type) {
		case flag:
			w.key(m.Word)
			w.raw("true")
		case choice:
			w.field(m.Word, *field(f))
		case count:
			if n := *field.at(f); n == field.none {
				w.field(m.Word, "none")
			} else {
				w.key(m.Word)
				w.raw(itoa(n))
			}
		case duration:
			w.field(m.Word, string(appendDuration(nil, *field.at(f))))
		case prefixes:
			w.strings(m.Word, prefixTexts(*field(f)))
		case fromField:
			w.strings(m.Word, prefixTexts(f.Policy.Allow))
		case viaField:
			w.field(m.Word, f.Via)
		case opensField:
			w.strings(m.Word, prefixTexts(f.Opens))
		case onField:
			w.field(m.Word, f.At.Host())
		case versionField:
			w.field(m.Word, "v"+itoa(f.Policy.ProxyProtocol))
		case sourceField:
			w.field(m.Word, f.Policy.Source)
		case dscpField:
			w.field(m.Word, string(f.Policy.DSCP))
		case congestionField:
			w.field(m.Word, f.Policy.Congestion)
		case markField:
			w.key(m.Word)
			w.raw(strconv.FormatUint(uint64(f.Policy.Mark), 10))
		case checkField:
			field.json(w, m.Word, &f.Policy.Check)
		case bandwidthField:
			v := *field(f)
			if v.Up == v.Down {
				w.field(m.Word, string(appendSize(nil, v.Up))+"/s")
				break
			}
			w.key(m.Word)
			w.open('{')
			if v.Up != 0 {
				w.field("up", string(appendSize(nil, v.Up))+"/s")
			}
			if v.Down != 0 {
				w.field("down", string(appendSize(nil, v.Down))+"/s")
			}
			w.close('}')
		case scheduleField:
			w.strings(m.Word, prefixTexts(f.Policy.Schedule))
		case pacField:
			if f.Policy.PAC == "kill-switch" {
				w.field(m.Word, f.Policy.PAC)
			} else {
				w.key(m.Word)
				w.raw("true")
			}
		case keyField:
			w.field(m.Word, f.Policy.KeyFile)
		case certField:
			w.certs(m.Word, f.Policy.TLS.Certs)
		case textField:
			w.field(m.Word, *field.at(f))
		case textsField:
			w.strings(m.Word, *field.at(f))
		case targetTLSField:
			w.field(m.Word, f.Policy.TLS.Target)
		}
	}
}

func (w *jsonWriter) certs(word string, list []fairlead.Certificate) {
	w.key(word)
	w.open('[')
	for _, c := range list {
		w.item()
		w.open('{')
		w.field("cert", c.Cert)
		if c.Key != "" {
			w.field("key", c.Key)
		}
		w.close('}')
	}
	w.close(']')
}

func (w *jsonWriter) users(users []fairlead.User) {
	if len(users) == 0 {
		return
	}
	w.key("users")
	w.open('[')
	for _, u := range users {
		w.item()
		w.open('{')
		if u.Agent {
			w.field("agent", u.Name)
		} else {
			w.field("user", u.Name)
		}
		w.field(u.Secret, u.Value)
		if len(u.May) > 0 {
			w.key("may")
			w.open('[')
			for _, g := range u.May {
				w.item()
				w.open('{')
				w.field(g.Verb, g.What)
				w.close('}')
			}
			w.close(']')
		}
		w.close('}')
	}
	w.close(']')
}

// ToConf writes a configuration as sentences, laid out. What was included is
// part of it.
func ToConf(file *File) []byte {
	var b []byte
	line := func(word string, words ...string) {
		b = append(b, word...)
		for _, s := range words {
			b = appendWord(append(b, ' '), s)
		}
		b = append(b, '\n')
	}
	list := func(b []byte, words []string) []byte {
		for i, s := range words {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendWord(append(b, ' '), s)
		}
		return b
	}
	if file.Version != 0 {
		line("version", itoa(file.Version))
	}
	if len(file.WAN) > 0 {
		b = append(list(append(b, "wan"...), file.WAN), '\n')
	}
	if len(file.LAN) > 0 {
		b = append(list(append(b, "lan"...), file.LAN), '\n')
	}
	for i := range file.Places {
		p := &file.Places[i]
		b = append(b, "place "+p.Name+" "+p.Type...)
		b = list(b, p.To)
		for _, o := range p.Options {
			b = appendPair(b, o.Word, o.Value)
		}
		b = append(b, '\n')
	}
	if file.Registry.Type != "" {
		b = append(list(append(b, "registry "+file.Registry.Type...), file.Registry.To), '\n')
	}
	for _, s := range file.Include {
		line("include", s)
	}
	if mods := said(&file.Defaults); len(mods) > 0 {
		if len(b) > 0 {
			b = append(b, '\n')
		}
		b = append(b, "defaults {\n"...)
		for _, m := range mods {
			b = append(m.field.print(b, m.Word, &file.Defaults), '\n')
		}
		b = append(b, "}\n"...)
	}
	if len(b) > 0 && len(file.Forwards) > 0 {
		b = append(b, '\n')
	}
	for _, f := range file.Forwards {
		b = append(b, f.Name+": "...)
		b = append(appendSentence(b, file.written(f), everyWord), '\n')
	}
	if out, problems := Format(b); len(problems) == 0 {
		return out
	}
	return b
}
