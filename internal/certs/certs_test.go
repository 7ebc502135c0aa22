package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead"
)

func TestExpiryIsToldInTime(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		life, left time.Duration
		want       string
	}{
		{90 * day, 30 * day, ""},
		{90 * day, 15 * day, ""},
		{90 * day, 13 * day, "expires soon"},
		{6 * day, 2 * day, ""},
		{6 * day, day, "expires soon"},
		{90 * day, -time.Second, "has expired"},
		{90 * day, 91 * day, "is valid only from"},
	} {
		leaf := &x509.Certificate{NotBefore: now.Add(c.left - c.life), NotAfter: now.Add(c.left), DNSNames: []string{"a.test"}}
		p := expiry(leaf, "it", now)
		switch {
		case c.want == "" && p != nil:
			t.Errorf("%v of %v left: %s", c.left, c.life, p.What)
		case c.want != "" && (p == nil || !p.Warning || !strings.Contains(p.What, c.want)):
			t.Errorf("%v of %v left: %v, want %q", c.left, c.life, p, c.want)
		}
	}
}

func TestChangesOfFilesAreSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	old := time.Now().Add(-time.Hour)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	var f files
	f.watch(path, "")
	f.note(time.Now())
	step := func(what string, want bool) {
		t.Helper()
		if got := f.changed(time.Now()); got != want {
			t.Errorf("%s: changed is %v", what, got)
		}
	}
	step("still missing", false)
	write("one")
	step("appears", true)
	step("as it was", false)
	write("three")
	step("another size", true)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	write("three")
	step("another file of the same size and time", true)
	step("as it was", false)
	if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	step("another time", true)
	step("so young that a write of the same size may have been missed", true)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	step("gone", true)
	step("still gone", false)
}

// Package crypto/tls tells alerts of the other side as texts; this breaks when
// a new version tells them otherwise.
func TestAlertsAreKnownByTheirTexts(t *testing.T) {
	for alert, code := range map[tls.AlertError]fairlead.Code{
		alertCertificateRequired: fairlead.CodeTargetWantsCert,
		alertUnknownCA:           fairlead.CodeTargetWantsCert,
		alertUnrecognizedName:    fairlead.CodeTargetOtherName,
		alertHandshakeFailure:    fairlead.CodeTargetTLS,
	} {
		err := &net.OpError{Op: "remote error", Err: errors.New(alert.Error())}
		if p := TargetTrouble(err, "a:1", "a", false); p.Code != code || p.Err != err {
			t.Errorf("%v: %s %s", alert, p.Code, p.What)
		}
		if got, ok := alertOf(err); !ok || got != alert {
			t.Errorf("%v is taken for %v", alert, got)
		}
	}
	if p := TargetTrouble(&net.OpError{Op: "remote error", Err: errors.New(tls.AlertError(alertHandshakeFailure).Error())}, "a:1", "a", true); p.Code != fairlead.CodeTargetWantsCert {
		t.Errorf("a failure of one who asked for a certificate: %s", p.What)
	}
}
