package nft

import (
	"context"
	"errors"
)

var errNotYet = errors.New("nft: not there yet")

type conn struct{}

func open() (conn, error)                                            { return conn{}, errNotYet }
func (conn) close() error                                            { return nil }
func (conn) replace(*Table) error                                    { return errNotYet }
func (conn) change(Change) error                                     { return errNotYet }
func (conn) delete(Family, string) error                             { return errNotYet }
func (conn) read(Family, string) (*Table, error)                     { return nil, errNotYet }
func (conn) readSet(Family, string, string) (*Set, error)            { return nil, errNotYet }
func (conn) readAll(int) ([]*Table, error)                           { return nil, errNotYet }
func (conn) ruleText(Family, string, string, uint64) (string, error) { return "", errNotYet }
func (conn) tables() ([]Listed, error)                               { return nil, errNotYet }
func (conn) id() uint32                                              { return 0 }

func watch(context.Context, func(), func(Notice)) error     { return errNotYet }
func trace(context.Context, func(), func(TraceEvent)) error { return errNotYet }
