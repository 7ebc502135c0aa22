package fairlead

// TLS is how a forward is secured, on the side of its clients and on the side
// of its targets. Either side may be plain.
type TLS struct {
	// Toward clients. Without a certificate they are not spoken TLS with.
	Certs    []Certificate // the one for the name that a client asks for; else the first
	ClientCA string        // file of authorities; clients must show a certificate of theirs
	ALPN     []string      // protocols offered, the preferred first

	// Certificates from an ACME authority (RFC 8555).
	ACME          []string // names to get certificates for
	ACMEDirectory string   // URL; "": Let's Encrypt
	ACMEEmail     string   // where the authority can reach the operator
	ACMECA        string   // file of roots to trust at the directory; "": the system's

	// Toward targets.
	Target     string // "", "verify" or "insecure"
	TargetName string // the name asked for and verified; "": the target's host
	TargetCA   string // file of authorities; "": the system's
	TargetCert string // file of our certificate, for targets that ask for one
	TargetKey  string // file of its key; "": the same file
}

// A Certificate is the files of a certificate with its chain and of its key.
type Certificate struct {
	Cert string
	Key  string // "": in the same file
}

// Terminates reports whether clients are spoken TLS with.
func (t *TLS) Terminates() bool { return len(t.Certs) > 0 || len(t.ACME) > 0 }

// Originates reports whether targets are spoken TLS with.
func (t *TLS) Originates() bool { return t.Target != "" }

// The values of "target-tls".
const (
	TargetVerify   = "verify"
	TargetInsecure = "insecure"
)
