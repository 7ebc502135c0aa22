package certs

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"strings"
	"syscall"
	"time"

	"fairlead"
)

// warnBefore is how long before its end a certificate is worth a warning; one
// with a short life, from its last quarter on.
const warnBefore = 14 * 24 * time.Hour

// expiry warns of a certificate that is over or soon will be. What names it.
func expiry(leaf *x509.Certificate, what string, now time.Time) *fairlead.Problem {
	before := min(warnBefore, leaf.NotAfter.Sub(leaf.NotBefore)/4)
	format := ""
	switch {
	case now.After(leaf.NotAfter):
		format = "%s has expired: it was valid until %s"
	case now.Before(leaf.NotBefore):
		return warning(fairlead.CodeCertExpires, "%s is valid only from %s on", what, day(leaf.NotBefore)).
			Note("now", "%s", day(now))
	case leaf.NotAfter.Sub(now) < before:
		format = "%s expires soon: it is valid until %s"
	default:
		return nil
	}
	return warning(fairlead.CodeCertExpires, format, what, day(leaf.NotAfter)).
		Note("for", "%s", names(leaf)).
		Fix("renew it and put the new one into the same file: it is taken up by itself", "")
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

func exposed(keys []string) *fairlead.Problem {
	if len(keys) == 0 {
		return nil
	}
	return warning(fairlead.CodeKeyOpen, "every user of this machine can read the key in %s", keys[0]).
		Fix("take the right away", "chmod o-r "+keys[0])
}

// outdated is a problem of new files as the warning that older ones serve.
func outdated(err error) *fairlead.Problem {
	cause := fairlead.AsProblem(err)
	p := warning(fairlead.CodeCertOld, "%s; the certificate read before stays in service", cause.What)
	p.Notes, p.Fixes, p.Err = cause.Notes, cause.Fixes, err
	return p
}

func warning(code fairlead.Code, format string, args ...any) *fairlead.Problem {
	p := fairlead.Problemf(code, format, args...)
	p.Warning = true
	return p
}

// names are who a certificate is for, as many as a line takes.
func names(c *x509.Certificate) string {
	var list []string
	list = append(list, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	if len(list) == 0 {
		return "no name that can be asked for"
	}
	const most = 6
	if len(list) > most {
		list = append(list[:most:most], "…")
	}
	return strings.Join(list, ", ")
}

// TargetTrouble is why the handshake with the target dest failed, which was to
// prove that it is name. Wanting is as in Client.Config.
func TargetTrouble(err error, dest, name string, wanting bool) *fairlead.Problem {
	p := targetTrouble(err, dest, name, wanting)
	p.Err = err
	return p
}

func targetTrouble(err error, dest, name string, wanting bool) *fairlead.Problem {
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	alert, alerted := alertOf(err)
	switch {
	case errors.As(err, &verify):
		return unverified(verify, dest, name)
	case errors.As(err, &record), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		p := fairlead.Problemf(fairlead.CodeTargetPlain, "%s does not speak TLS", dest)
		if !errors.As(err, &record) {
			p.What = dest + " ended the connection when it was greeted in TLS"
			p.Note("why", "it does not speak TLS at this port, or serves nobody under the name %s", name)
		}
		return p.Fix("speak with it in plain text: leave out", "target-tls")
	case alert == alertHandshakeFailure && wanting:
		return refusedBy(alertCertificateRequired, dest, name) // TLS 1.2 has no word of its own for it
	case alerted:
		return refusedBy(alert, dest, name)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fairlead.Problemf(fairlead.CodeTargetSilent, "%s accepted the connection and did not answer in TLS in time", dest).
			Note("why", "it may wait for a greeting in plain text, or be overloaded")
	}
	return fairlead.Problemf(fairlead.CodeTargetTLS, "the TLS handshake with %s failed: %v", dest, plainCause(err))
}

// unverified is what is wrong with a certificate.
func unverified(err *tls.CertificateVerificationError, dest, name string) *fairlead.Problem {
	var leaf, last *x509.Certificate
	if n := len(err.UnverifiedCertificates); n > 0 {
		leaf, last = err.UnverifiedCertificates[0], err.UnverifiedCertificates[n-1]
	}
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case leaf == nil:
	case errors.As(err, &host):
		p := fairlead.Problemf(fairlead.CodeTargetOtherName, "%s has no certificate for %s", dest, name).
			Note("has", "%s", names(leaf))
		if other := firstName(leaf); other != "" {
			p.Fix("ask for a name that it has, if that is who it should be", "target-name "+other)
		}
		return p
	case errors.As(err, &unknown):
		p := fairlead.Problemf(fairlead.CodeTargetUntrusted, "the certificate of %s is signed by nobody that is trusted here", dest)
		if leaf.CheckSignatureFrom(leaf) == nil || leaf.Subject.String() == leaf.Issuer.String() {
			p.What = "the certificate of " + dest + " is signed by itself, and it is not among those that are trusted here"
			p.Note("SHA-256", "%s", fingerprint(leaf))
		} else {
			p.Note("by", "%s", last.Issuer)
		}
		return p.Fix("have the certificate of that authority in a file, and name it", "target-ca FILE")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		p := fairlead.Problemf(fairlead.CodeTargetExpired, "the certificate of %s has expired: it was valid until %s", dest, day(leaf.NotAfter))
		if cert := invalid.Cert; cert != nil && cert != leaf {
			p.What = "a certificate in the chain of " + dest + " is not valid at this time: " + cert.Subject.String()
			leaf = cert
		}
		if time.Now().Before(leaf.NotBefore) {
			p.What = "the certificate of " + dest + " is valid only from " + day(leaf.NotBefore) + " on"
		}
		return p.Note("now", "%s", day(time.Now())).
			Fix("renew it on the target; if many seem to have expired, correct this machine's clock", "")
	}
	return fairlead.Problemf(fairlead.CodeTargetTLS, "the certificate of %s is not accepted: %v", dest, err.Err)
}

func firstName(c *x509.Certificate) string {
	switch {
	case len(c.DNSNames) > 0:
		return strings.Replace(c.DNSNames[0], "*", "www", 1)
	case len(c.IPAddresses) > 0:
		return c.IPAddresses[0].String()
	}
	return ""
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// alertOf is the alert with which the other side refused. Package crypto/tls
// tells it by its text alone, except to users of QUIC.
func alertOf(err error) (tls.AlertError, bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return 0, false
	}
	text := op.Err.Error()
	for a := range 256 {
		if alert := tls.AlertError(a); alert.Error() == text {
			return alert, true
		}
	}
	return 0, false
}

// Alerts of RFC 8446, section 6.
const (
	alertHandshakeFailure    = 40
	alertBadCertificate      = 42
	alertUnsupportedCert     = 43
	alertCertificateRevoked  = 44
	alertCertificateExpired  = 45
	alertCertificateUnknown  = 46
	alertUnknownCA           = 48
	alertAccessDenied        = 49
	alertUnrecognizedName    = 112
	alertCertificateRequired = 116
)

// refusedBy is what the target's alert means.
func refusedBy(alert tls.AlertError, dest, name string) *fairlead.Problem {
	switch alert {
	case alertCertificateRequired:
		return fairlead.Problemf(fairlead.CodeTargetWantsCert, "%s demands a certificate of its clients", dest).
			Fix("show ours", "target-cert FILE target-key FILE")
	case alertBadCertificate, alertUnsupportedCert, alertCertificateRevoked, alertCertificateExpired,
		alertCertificateUnknown, alertUnknownCA, alertAccessDenied:
		return fairlead.Problemf(fairlead.CodeTargetWantsCert, "%s does not accept who we are: %v", dest, alert).
			Fix("show a certificate of an authority that it trusts", "target-cert FILE target-key FILE")
	case alertUnrecognizedName:
		return fairlead.Problemf(fairlead.CodeTargetOtherName, "%s serves nobody under the name %s", dest, name).
			Fix("ask for a name that it has", "target-name NAME")
	}
	return fairlead.Problemf(fairlead.CodeTargetTLS, "%s refused the TLS handshake: %v", dest, alert)
}

// Refusal is what the alert means with which a target ended a connection after
// the handshake, nil for other errors. A target of TLS 1.3 says only then that
// it does not accept our certificate.
func Refusal(err error, dest, name string) *fairlead.Problem {
	alert, ok := alertOf(err)
	if !ok {
		return nil
	}
	if p := refusedBy(alert, dest, name); p.Code == fairlead.CodeTargetWantsCert {
		p.Err = err
		return p
	}
	return nil
}

// ClientTrouble is why the handshake with a client failed, which asked for
// name; "" where it did not say.
func ClientTrouble(err error, name string) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodeNoHandshake, "the client %s", clientTrouble(err))
	if name != "" {
		const most = 255 // of a name in DNS; this is a stranger's
		p.What += fmt.Sprintf("; it asked for %q", name[:min(len(name), most)])
	}
	p.Err = err
	return p
}

func clientTrouble(err error) string {
	var record tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	alert, alerted := alertOf(err)
	text := err.Error()
	switch {
	case errors.As(err, &record):
		return "speaks something else than TLS"
	case errors.As(err, &verify):
		return "shows a certificate that tls-client-ca does not vouch for: " + verify.Err.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "broke off the TLS handshake: it closed the connection"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "did not finish the TLS handshake in time"
	case alerted:
		switch alert {
		case alertBadCertificate, alertCertificateUnknown, alertUnknownCA, alertCertificateExpired:
			return "broke off the TLS handshake, as it does not accept our certificate: " + alert.Error()
		}
		return "broke off the TLS handshake: " + alert.Error()
	case strings.Contains(text, "didn't provide a certificate"):
		return "shows no certificate, and tls-client-ca demands one"
	case strings.Contains(text, "unsupported application protocols"):
		return "offers none of the protocols that tls-alpn names"
	case strings.Contains(text, "unsupported versions"):
		return "speaks only versions of TLS that are not safe: " + text
	}
	return "did not come to a TLS connection: " + plainCause(err).Error()
}

func plainCause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "fairlead"
}
