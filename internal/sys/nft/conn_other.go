//go:build !linux

package nft

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

var errNoNFTables = fmt.Errorf("nftables is Linux's, and this is %s: %w", runtime.GOOS, errors.ErrUnsupported)

type conn struct{}

func open() (conn, error)                                            { return conn{}, errNoNFTables }
func (conn) close() error                                            { return nil }
func (conn) replace(*Table) error                                    { return errNoNFTables }
func (conn) change(Change) error                                     { return errNoNFTables }
func (conn) delete(Family, string) error                             { return errNoNFTables }
func (conn) read(Family, string) (*Table, error)                     { return nil, errNoNFTables }
func (conn) readSet(Family, string, string) (*Set, error)            { return nil, errNoNFTables }
func (conn) counts(Family, string, *Set, []Element) ([]Count, error) { return nil, errNoNFTables }
func (conn) readAll(int) ([]*Table, error)                           { return nil, errNoNFTables }
func (conn) ruleText(Family, string, string, uint64) (string, error) { return "", errNoNFTables }
func (conn) tables() ([]Listed, error)                               { return nil, errNoNFTables }
func (conn) id() uint32                                              { return 0 }
func watch(context.Context, func(), func(Notice)) error              { return errNoNFTables }
func trace(context.Context, func(), func(TraceEvent)) error          { return errNoNFTables }
