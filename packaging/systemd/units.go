// Package systemd holds the files with which systemd(1) runs fairlead, so that
// a package that ships them and "fairlead install" give a machine the same. It
// installs nothing.
package systemd

import _ "embed"

// Unit is the service. It names the program, its file and its control socket by
// the paths that a package has: /usr/bin/fairlead, /etc/fairlead/fairlead.conf
// and /run/fairlead/control.sock.
//
//go:embed fairlead.service
var Unit string

// Users is the service's user and group, in the words of sysusers.d(5).
//
//go:embed fairlead.sysusers.conf
var Users string

// Directories are those that the service finds, in the words of tmpfiles.d(5).
//
//go:embed fairlead.tmpfiles.conf
var Directories string
