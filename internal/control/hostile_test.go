package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"fairlead"
)

func TestHostileRequestsAreRefused(t *testing.T) {
	d := newDesk()
	path := serve(t, Config{Backend: d})
	const end = "Connection: close\r\n"
	const host = "Host: fairlead\r\n"
	const typed = "Content-Type: application/json\r\n"
	get := func(what string) string { return "GET " + what + " HTTP/1.1\r\n" + host + end + "\r\n" }
	post := func(what, head, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\n%s%s%sContent-Length: %d\r\n\r\n%s", what, host, end, head, len(body), body)
	}
	kill := func(body string) string { return post("/v1/kill", typed, body) }
	for _, c := range []struct {
		name, request string
		want          int
	}{
		{"foreign host", "GET /v1/status HTTP/1.1\r\nHost: evil.example\r\n" + end + "\r\n", 421},
		{"host with a port", "GET /v1/status HTTP/1.1\r\nHost: localhost:80\r\n" + end + "\r\n", 421},
		{"no host", "GET /v1/status HTTP/1.0\r\n\r\n", 421},
		{"absolute form with a foreign host", "GET http://evil.example/v1/status HTTP/1.1\r\n" + host + end + "\r\n", 421},
		{"localhost", "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n" + end + "\r\n", 200},
		{"origin", "GET /v1/status HTTP/1.1\r\n" + host + end + "Origin: http://localhost\r\n\r\n", 403},
		{"empty origin", "GET /v1/status HTTP/1.1\r\n" + host + end + "Origin:\r\n\r\n", 403},
		{"null origin", post("/v1/reload", typed+"Origin: null\r\n", "{}"), 403},
		{"browser without origin", "GET /v1/status HTTP/1.1\r\n" + host + end + "Sec-Fetch-Site: none\r\n\r\n", 403},
		{"reload by get", get("/v1/reload"), 405},
		{"kill by get", get("/v1/kill?forward=pg"), 405},
		{"kill by put", strings.Replace(kill(`{"id":"1a"}`), "POST", "PUT", 1), 405},
		{"status by post", post("/v1/status", typed, "{}"), 405},
		{"status by head", strings.Replace(get("/v1/status"), "GET", "HEAD", 1), 405},
		{"options of all", strings.Replace(get("*"), "GET", "OPTIONS", 1), 404},
		{"root", get("/"), 404},
		{"prefix", get("/v1/status/"), 404},
		{"longer", get("/v1/statusx"), 404},
		{"double slash", get("//v1/status"), 404},
		{"dots", get("/v1/x/../status"), 404},
		{"escaped dots", get("/v1/..%2fv1/status"), 404},
		{"escaped letter", get("/v1/%73tatus"), 404},
		{"upper case", get("/V1/status"), 404},
		{"no content type", post("/v1/reload", "", "{}"), 415},
		{"form", post("/v1/kill", "Content-Type: application/x-www-form-urlencoded\r\n", "forward=pg"), 415},
		{"text", post("/v1/kill", "Content-Type: text/plain\r\n", `{"forward":"pg"}`), 415},
		{"charset", post("/v1/reload", "Content-Type: application/json; charset=utf-8\r\n", "{}"), 200},
		{"huge body", kill(`{"forward":"` + strings.Repeat("a", 1<<20) + `"}`), 413},
		{"huge body announced", "POST /v1/kill HTTP/1.1\r\n" + host + end + typed + "Content-Length: 1073741824\r\n\r\n" + strings.Repeat(" ", maxBody+1), 413},
		{"huge chunked body", "POST /v1/kill HTTP/1.1\r\n" + host + end + typed + "Transfer-Encoding: chunked\r\n\r\n" +
			strings.Repeat("1000\r\n"+strings.Repeat(" ", 4096)+"\r\n", 20) + "0\r\n\r\n", 413},
		{"body as large as may be", kill(strings.Repeat(" ", maxBody-len(`{"id":"1a"}`)) + `{"id":"1a"}`), 200},
		{"huge head", "GET /v1/status HTTP/1.1\r\n" + host + end + "X: " + strings.Repeat("a", 32<<10) + "\r\n\r\n", 431},
		{"deep", kill(`{"id":` + strings.Repeat("[", 30000) + strings.Repeat("]", 30000) + `}`), 400},
		{"trailing", kill(`{"id":"1a"} {"id":"1b"}`), 400},
		{"trailing garbage", kill(`{"id":"1a"}x`), 400},
		{"twice", kill(`{"id":"1a","id":"1b"}`), 400},
		{"twice in another case", kill(`{"id":"1a","ID":"1b"}`), 400},
		{"unknown field", kill(`{"id":"1a","older_than":60}`), 400},
		{"list", kill(`["1a"]`), 400},
		{"null", kill(`null`), 400},
		{"number", kill(`{"id":7}`), 400},
		{"no address", kill(`{"client":"evil"}`), 400},
		{"cut short", kill(`{"id":"1a"`), 400},
		{"not UTF-8", kill("{\"id\":\"\xff\"}"), 400},
		{"nothing selected", kill(`{}`), 400},
		{"nothing selected, empty", kill(`{"id":"","client":""}`), 400},
		{"two lengths", "POST /v1/kill HTTP/1.1\r\n" + host + end + typed + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400},
		{"not HTTP", "\x16\x03\x01\x00\x00\r\n\r\n", 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer := raw(t, path, c.request)
			var status int
			if _, err := fmt.Sscanf(answer, "HTTP/1.1 %d", &status); err != nil {
				if _, err := fmt.Sscanf(answer, "HTTP/1.0 %d", &status); err != nil {
					t.Fatalf("no HTTP answer: %q", answer)
				}
			}
			if status != c.want {
				t.Fatalf("status %d, want %d: %s", status, c.want, answer)
			}
			head, body, _ := strings.Cut(answer, "\r\n\r\n")
			if status == 200 || !strings.Contains(head, "application/json") || body == "" {
				return // package http answers what it cannot parse in words of its own
			}
			var e Error
			if err := json.Unmarshal([]byte(body), &e); err != nil || e.Schema != SchemaError || e.Error.Text == "" || e.Error.Code == "" {
				t.Errorf("not an error document: %s, %v", body, err)
			}
			if len(body) > 2000 {
				t.Errorf("an error of %d bytes", len(body))
			}
		})
	}
	if log := d.said(); strings.Count(log, "\n") != 1 { // "charset" and "body as large as may be"
		t.Errorf("the service was asked to:\n%s", log)
	}
}

func TestNestingIsBoundedBeforeAnythingElse(t *testing.T) {
	for depth, want := range map[int]string{maxDepth - 1: "id cannot be", maxDepth: "nested", 30000: "nested"} {
		body := `{"id":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`
		if err := decode([]byte(body), &KillRequest{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

func FuzzKill(f *testing.F) {
	for _, s := range []string{
		"", "{}", `{"id":"1a"}`, `{"forward":"pg","client":"127.0.0.1"}`, `{"client":"fe80::1%eth0"}`,
		`{"id":"1a","ID":"1b"}`, `{"id":[[[[]]]]}`, `[{}]`, `{"id":"\ud800"}`, `{"":{"":{"":0}}}`, "{\"id\":\"\x00\"}", `1e999`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d := newDesk()
		s := New(Config{Backend: d})
		defer s.end()
		r := httptest.NewRequest("POST", "/v1/kill", bytes.NewReader(body))
		r.Host = "fairlead"
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		s.admit(w, r)
		asked := d.said() != ""
		switch w.Code {
		case http.StatusOK, http.StatusNotFound:
			if !asked {
				t.Errorf("%q: %d without asking", body, w.Code)
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			if asked {
				t.Errorf("%q: %d, and yet something was killed", body, w.Code)
			}
		default:
			t.Errorf("%q: status %d", body, w.Code)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%q: answer %q", body, w.Body)
		}
		// What was acted upon can be said again in our own words.
		var q KillRequest
		if decode(body, &q) == nil {
			again, err := json.Marshal(q)
			var back KillRequest
			if err != nil || decode(again, &back) != nil || back != q {
				t.Errorf("%q reads %+v, written %s reads %+v (%v)", body, q, again, back, err)
			}
		}
	})
}

func TestAnswersOfStrangersAreProblems(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		want         fairlead.Code
	}{
		{"not HTTP", "hello\r\n\r\n", fairlead.CodeNoService},
		{"nothing", "", fairlead.CodeNoService},
		{"cut short", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", fairlead.CodeNoService},
		{"not JSON", "HTTP/1.1 200 OK\r\n\r\n<html>", fairlead.CodeAPI},
		{"later schema", "HTTP/1.1 200 OK\r\n\r\n" + `{"schema":"fairlead/version/2"}`, fairlead.CodeAPI},
		{"wrong type", "HTTP/1.1 200 OK\r\n\r\n" + `{"schema":"fairlead/version/1","pid":"x"}`, fairlead.CodeAPI},
		{"error in words", "HTTP/1.1 500 Oops\r\n\r\nsorry", fairlead.CodeAPI},
		{"redirect", "HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\n\r\n", fairlead.CodeNoService},
		{"error of a later version", "HTTP/1.1 418 Later\r\n\r\n" + `{"schema":"fairlead/error/1","error":{"code":"FL-899","text":"new","more":1},"new":{}}`, "FL-899"},
		{"later field", "HTTP/1.1 200 OK\r\n\r\n" + `{"schema":"fairlead/version/1","new":[1]}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Dial(stranger(t, c.answer)).Version(soon(t))
			if codeOf(err) != c.want {
				t.Errorf("%v", err)
			}
		})
	}
	err := Dial(stranger(t, "HTTP/1.1 200 OK\r\n\r\n"+`{"schema":"fairlead/error/1"}`)).Events(soon(t), func(Event) {})
	if codeOf(err) != fairlead.CodeAPI {
		t.Errorf("events: %v", err)
	}
}
