//go:build !linux

package lab

import (
	"errors"
	"fmt"
)

// namespace never comes into being here: NewNet has skipped the test before.
type namespace struct{}

var errNoNamespaces = fmt.Errorf("network namespaces exist on Linux only: %w", errors.ErrUnsupported)

func newNamespace() (namespace, error) { return namespace{}, errNoNamespaces }

func (namespace) close()                                   {}
func (namespace) do(func() error) error                    { return errNoNamespaces }
func (namespace) addVeth(string, *namespace, string) error { return errNoNamespaces }
func (namespace) addBridge(string, []string) error         { return errNoNamespaces }
func (namespace) addAddr(string, string) error             { return errNoNamespaces }
func (namespace) dropAddr(string, string) error            { return errNoNamespaces }
func (namespace) addRoute(string, string, string) error    { return errNoNamespaces }
func (namespace) setUp(string, bool) error                 { return errNoNamespaces }
func (namespace) removeLink(string) error                  { return errNoNamespaces }
func writeSysctl(string, string) error                     { return errNoNamespaces }
