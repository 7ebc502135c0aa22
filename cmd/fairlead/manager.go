package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"regexp"
	"strconv"
	"strings"

	"fairlead/packaging/systemd"
)

// What is asked of the machine's service manager when fairlead is installed and
// uninstalled: systemctl(1) and systemd-sysusers(8) do it.

const (
	unitName = "fairlead.service"
	unitPath = "/etc/systemd/system/" + unitName
	wantPath = "/etc/systemd/system/multi-user.target.wants/" + unitName
)

// unitCommand finds the program and the file that a unit names.
var unitCommand = regexp.MustCompile(`(?m)^ExecStart=(\S+) up --config (\S+) `)

// managed reports whether systemd runs this machine (sd_booted(3)).
func managed() bool {
	st, err := os.Lstat("/run/systemd/system")
	return err == nil && st.IsDir()
}

func systemctl(ctx context.Context, args ...string) error {
	_, err := command(ctx, "", "systemctl", args...)
	return err
}

// unitIs asks whether the unit is active or enabled.
func unitIs(ctx context.Context, what string) bool {
	return exec.CommandContext(ctx, "systemctl", "is-"+what, "--quiet", unitName).Run() == nil
}

// command runs a program; its error has the program's own words.
func command(ctx context.Context, input, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w", strings.Join(append([]string{name}, args...), " "), err)
		if said := bytes.TrimSpace(out); len(said) > 0 {
			err = fmt.Errorf("%w: %s", err, said)
		}
	}
	return string(out), err
}

// serviceUser reports whether the service's user is there, and the number of its
// group, -1 where there is none.
func serviceUser() (there bool, gid int) {
	_, err := user.Lookup(serviceGroup)
	return err == nil, groupNumber()
}

func groupNumber() int {
	g, err := user.LookupGroup(serviceGroup)
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(g.Gid)
	if err != nil {
		return -1
	}
	return n
}

// makeUser makes the user and the group that the unit names.
func makeUser(ctx context.Context) error {
	_, err := command(ctx, systemd.Users, "systemd-sysusers", "-")
	return err
}

// dropUser removes them again.
func dropUser(ctx context.Context) error {
	if there, _ := serviceUser(); there {
		if _, err := command(ctx, "", "userdel", serviceGroup); err != nil {
			return err
		}
	}
	if groupNumber() >= 0 { // where it does not go with its user
		if _, err := command(ctx, "", "groupdel", serviceGroup); err != nil {
			return err
		}
	}
	return nil
}
