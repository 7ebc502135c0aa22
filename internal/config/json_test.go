package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"fairlead"
)

// everything is a file that says everything there is.
const everything = example + `
include conf.d/*.conf
version 1
place proxy socks5 me@proxy:1080 password /p via jump
defaults {
    idle 5m
    check tcp every 5s
    deny 10.9.0.0/16 deny ::/0
    proxy-protocol v1
    publish
}
one:   forward "unix:/a b" to "unix:/c,d" from 10.0.0.1, self:8 sni a.net sni b.net front sni disabled
two:   forward 1-5 to x:7 accept-proxy 10.0.0.0/8 accept-proxy ::1 source 10.0.0.1,eth0 mark 7 rate 5/s max-conns 3 max-conns-per-source 2
three: forward :9 to x http-host a.net alpn h2 alpn http/1.1 protocol tls, y protocol other greet 5s
four:  dynamic 1081 pac kill-switch from 10.0.0.0/8 { user "a b" password "/p q" may dial *:443 }
five:  dynamic 1082 pac bandwidth 10MiB/s keepalive off linger off connect 5s max-lifetime 2d for 1h
six:   nat wan:8 to x masquerade claim alg ftp allow-in docker by kernel policy random
seven: trigger 7 opens 1, 2-3/udp on lan
eight: tunnel on :11 key /k
nine:  share br0 to wan unguarded
limits: forward 70 to x rate-per-source 5/s queue 5s max-queue 9 schedule mon-fri 08:00-18:00, sat,sun 22:00-06:00 bandwidth 1MB/s up, 2MB/s down bandwidth-per-conn 3MB/s bandwidth-per-source 4MB/s down
ten:   forward 77 to x check off idle off
tls:   forward 78 to x tls-cert /a tls-key "/k k" tls-cert /b tls-client-ca /ca tls-alpn h2,http/1.1 target-tls target-name y target-ca /ca target-cert /c target-key /k
acme:  forward 79 to x tls-acme a.net tls-acme b.net acme-directory https://ca.net/d acme-email o@a.net acme-ca /r target-tls insecure
two-a: forward 86 to x weight 3, y resolve all backup, z drain, _db._tcp.z policy least-conn slow-start 30s check http /up rise 2 fall 3 every 1s
two-b: forward 87 to x from ::1 weight 1 check send "\x00\"PING\r\n\\\\" expect "+PONG{"
`

func bothWays(t *testing.T, file *File) {
	t.Helper()
	text, err := ToJSON(file)
	if err != nil {
		t.Fatal(err)
	}
	back, problems := FromJSON(text)
	if len(problems) > 0 {
		t.Fatalf("%s %s\n%s", problems[0].Code, problems[0].What, text)
	}
	sameFile(t, "JSON", file, back)
	conf := ToConf(back)
	again, problems := Parse("", conf)
	if len(problems) > 0 {
		t.Fatalf("%s %s\n%s", problems[0].Code, problems[0].What, conf)
	}
	sameFile(t, "sentences", file, again)
}

// sameFile compares two configurations but for where they are written.
func sameFile(t *testing.T, form string, a, b *File) {
	t.Helper()
	plain := func(file *File) (f File, forwards, own []fairlead.Forward, places []Place) {
		f = *file
		for _, x := range file.Forwards {
			c, w := *x, *file.written(x)
			c.Source, w.Source, w.Expr = fairlead.Pos{}, fairlead.Pos{}, ""
			forwards, own = append(forwards, c), append(own, w)
		}
		for _, p := range file.Places {
			p.Source = fairlead.Pos{}
			places = append(places, p)
		}
		f.Forwards, f.own, f.Places, f.Registry.Source = nil, nil, nil, fairlead.Pos{}
		f.Path, f.Files = "", nil
		return f, forwards, own, places
	}
	file1, forwards1, own1, places1 := plain(a)
	file2, forwards2, own2, places2 := plain(b)
	for what, pair := range map[string][2]any{
		"file": {file1, file2}, "places": {places1, places2}, "forwards": {forwards1, forwards2}, "own": {own1, own2},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("through %s the %s differ\n%+v\n%+v", form, what, pair[0], pair[1])
		}
	}
}

func TestJSONIsLossless(t *testing.T) {
	bothWays(t, mustParse(t, example))
	bothWays(t, mustParse(t, everything))
	bothWays(t, mustParse(t, ""))
}

func TestJSONTakesSentencesAndShortForms(t *testing.T) {
	file, problems := FromJSON([]byte(`{
  "schema": "fairlead/config/1",
  "lan": "br0",
  "forwards": [
    {"name": "a", "expr": "forward 8080 to x:80 idle 2s"},
    {"name": "b", "kind": "forward", "listen": 8081, "to": "y", "max-conns": 5, "rate": 7, "publish": false, "mark": 9},
    {"name": "limits", "kind": "forward", "listen": 8084, "to": "y", "schedule": "mon-fri 08:00-18:00, sat 10:00-14:00", "bandwidth": "1MB/s up, 2MB/s down", "bandwidth-per-conn": {"down": "3MB/s"}},
    {"name": "c", "kind": "forward", "listen": "8082", "to": ["y", {"dest": "z", "from": "10.0.0.0/8"}], "check": "tcp"},
    {"name": "d", "kind": "nat", "listen": "wan:1", "to": {"dest": "y\u002enet"}, "deny": ["10.0.0.1"], "disabled": true}
  ]
}`))
	wantProblems(t, problems)
	for i, want := range []string{
		"forward 8080 to x:80 idle 2s",
		"forward 8081 to y max-conns 5 rate 7/s mark 9",
		"forward 8084 to y schedule mon-fri 08:00-18:00, sat 10:00-14:00 bandwidth 1MB/s up, 2MB/s down bandwidth-per-conn 3MB/s down",
		"forward 8082 to y, z from 10.0.0.0/8 check tcp",
		"nat wan:1 to y.net deny 10.0.0.1 disabled",
	} {
		if got := file.Forwards[i].Expr; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if file.Forwards[1].Source.Line != 6 {
		t.Errorf("b stands in line %d", file.Forwards[1].Source.Line)
	}
}

func TestJSONMistakesAreExplained(t *testing.T) {
	for text, want := range map[string]string{
		`{"forwards": [{"name": "a", "kind": "dynamic", "listen": "1", "idel": "5s"}]}`:                `FL-321 1:64 unknown field "forwards[0].idel"`,
		`{"forwards": [{"name": "a", "kind": "dynamic", "listen": "1", "idle": "5x"}]}`:                `FL-308 1:72 "5x" is not a duration`,
		`{"forwards": [{"name": "a", "kind": "dynamic", "listen": "1", "idle": true}]}`:                `FL-321 1:71 "forwards[0].idle" is not a string`,
		`{"forwards": [{"name": "a", "kind": "dynamic", "listen": "1", "via": "to"}]}`:                 `FL-312 1:71 unknown place "to"`,
		`{"forwards": [{"name": "a", "kind": "dynamic", "listen": "1 idle 5s"}]}`:                      `FL-306 1:59 "1 idle 5s" is not a port; ports are 1 to 65535`,
		`{"forwards": [{"name": "a", "kind": "forward", "listen": 1, "to": [{"dest": "a", "x": 1}]}]}`: `FL-321 1:83 unknown field "forwards[0].to[0].x"`,
		`{"forwards": [{"name": "a", "kind": "forward", "listen": 1}]}`:                                `FL-320 1:59 forward needs a target`,
		`{"forwards": [{"kind": "forward"}]}`:                                                          `FL-321 1:15 "forwards[0]" has no field "name"`,
		`{"forwards": [{"name": "a", "expr": "dynamic 1 idel 5s"}]}`:                                   `FL-301 1:48 unknown modifier "idel"`,
		`{"forwards": [{"name": "a", "expr": "dynamic 1", "idle": "5s"}]}`:                             `FL-321 1:51 "forwards[0].idle" stands beside an expr, which says everything`,
		`{"forwards": [{"name": "a b", "expr": "dynamic 1"}]}`:                                         `FL-317 1:25 "a b" is not a name`,
		`{"forwards": {"a": "dynamic 1"}}`:                                                             `FL-321 1:14 "forwards" is not a list`,
		`{"forward": []}`:                                                                              `FL-321 1:3 unknown field "forward"`,
		`{"schema": "fairlead/config/2"}`:                                                              `FL-321 1:13 the schema is "fairlead/config/2", and this program reads fairlead/config/1`,
		`{"lan": [], "lan": []}`:                                                                       `FL-321 1:13 the field "lan" is said twice`,
		`{"lan": ["a\u0000"]}`:                                                                         `FL-315 1:10 the string has a character that does not belong into a file`,
		`{"lan": ["a"`:                                                                                 `FL-321 1:13 a comma or ] is missing`,
		`{"lan": `:                                                                                     `FL-321 1:9 the JSON ends in the middle`,
		`{"lan": "a"} x`:                                                                               `FL-321 1:14 something stands behind the end of the JSON`,
		`{"lan": ` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`:                         `FL-321 1:25 the JSON is nested too deep`,
		`{"places": [{"name": "a", "type": "ssh", "to": "h", "password": "p"}]}`:                       `FL-321 1:54 unknown field "places[0].password"`,
		`{"defaults": {"via": "x"}}`:                                                                   `FL-321 1:16 unknown field "defaults.via"`,
		`{"forwards": [{"name": "a", "kind": "sshd", "on": ":1", "users": [{"user": "x", "keys": 1.5, "may": [{"lisen": "1"}]}]}]}`: `FL-321 1:104 unknown field "forwards[0].users[0].may[0].lisen"`,
	} {
		_, problems := FromJSON([]byte(text))
		t.Run("", func(t *testing.T) {
			wantProblems(t, problems, want)
			if t.Failed() {
				t.Log(text)
			}
		})
	}
}

// conforms reports where a JSON value does not fit a schema, as far as this
// package's schema uses the language.
func conforms(schema map[string]any, value any, path string) string {
	if list, ok := schema["oneOf"].([]any); ok {
		var why []string
		for _, s := range list {
			w := conforms(s.(map[string]any), value, path)
			if w == "" {
				return ""
			}
			why = append(why, w)
		}
		return strings.Join(why, " | ")
	}
	if c, ok := schema["const"]; ok && !reflect.DeepEqual(c, value) {
		return fmt.Sprintf("%s: %v is not %v", path, value, c)
	}
	if list, ok := schema["enum"].([]any); ok && !slices.ContainsFunc(list, func(x any) bool { return reflect.DeepEqual(x, value) }) {
		return fmt.Sprintf("%s: %v is none of %v", path, value, list)
	}
	if want, ok := schema["type"]; ok {
		is := map[string]bool{}
		switch v := value.(type) {
		case string:
			is["string"] = true
		case bool:
			is["boolean"] = true
		case float64:
			is["integer"] = v == float64(int64(v))
		case []any:
			is["array"] = true
		case map[string]any:
			is["object"] = true
		}
		fits := false
		if s, ok := want.(string); ok {
			fits = is[s]
		} else {
			for _, s := range want.([]any) {
				fits = fits || is[s.(string)]
			}
		}
		if !fits {
			return fmt.Sprintf("%s: %v is no %v", path, value, want)
		}
	}
	switch v := value.(type) {
	case []any:
		if items, ok := schema["items"].(map[string]any); ok {
			for i, x := range v {
				if w := conforms(items, x, fmt.Sprintf("%s[%d]", path, i)); w != "" {
					return w
				}
			}
		}
	case map[string]any:
		properties, _ := schema["properties"].(map[string]any)
		for name, x := range v {
			p, ok := properties[name].(map[string]any)
			if !ok {
				return path + "." + name + " is not in the schema"
			}
			if w := conforms(p, x, path+"."+name); w != "" {
				return w
			}
		}
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				return path + "." + name.(string) + " is missing"
			}
		}
	}
	return ""
}

func TestSchemaFitsWhatIsWritten(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{example, everything, ""} {
		out, err := ToJSON(mustParse(t, text))
		if err != nil {
			t.Fatal(err)
		}
		var doc any
		if err := json.Unmarshal(out, &doc); err != nil {
			t.Fatal(err)
		}
		if why := conforms(schema, doc, ""); why != "" {
			t.Error(why)
		}
	}
	// And the schema refuses what the parser refuses.
	for _, text := range []string{`{"forward": []}`, `{"forwards": [{"name": "a", "kind": "dynamic", "idel": "5s"}]}`, `{"forwards": [{"name": "a", "kind": "natt"}]}`} {
		var doc any
		if err := json.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		if conforms(schema, doc, "") == "" {
			t.Errorf("the schema takes %s", text)
		}
	}
	// Every field that the parser knows is in the schema.
	forward := schema["properties"].(map[string]any)["forwards"].(map[string]any)["items"].(map[string]any)["oneOf"].([]any)[0].(map[string]any)["properties"].(map[string]any)
	for _, name := range forwardFields {
		if _, ok := forward[name]; !ok && name != "expr" {
			t.Errorf("%s is not in the schema", name)
		}
	}
	for _, name := range documentFields {
		if _, ok := schema["properties"].(map[string]any)[name]; !ok {
			t.Errorf("%s is not in the schema", name)
		}
	}
}
