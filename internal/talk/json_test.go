package talk

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestJSONIsInertAndMeansTheSame(t *testing.T) {
	type document struct {
		Text string `json:"text"`
	}
	foreign := document{"what \x1b[2J\u009b1m\u202e\U000e0001 <&> é"}
	var b strings.Builder
	out := New(Config{Out: &b})
	if err := out.JSONLine(foreign); err != nil {
		t.Fatal(err)
	}
	want := `{"text":"what \u001b[2J\u009b1m\u202e\udb40\udc01 <&> é"}` + "\n"
	if b.String() != want {
		t.Errorf("got %s want %s", b.String(), want)
	}
	var back document
	if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back != foreign {
		t.Errorf("read back: %q, %v", back, err)
	}
	b.Reset()
	if err := out.JSON(foreign); err != nil {
		t.Fatal(err)
	}
	if want := "{\n  \"text\": "; !strings.HasPrefix(b.String(), want) {
		t.Errorf("not indented: %s", b.String())
	}
}
