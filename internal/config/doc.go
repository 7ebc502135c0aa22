// Package config reads and writes the sentence and the file: text into
// [fairlead.Forward] values and back, without loss, with errors that show
// file, line, column and what was probably meant. It also formats a file,
// changes one entry of it and leaves every other byte alone, compares two
// files, and speaks the same configuration as JSON.
//
// It does not decide whether a forward can be carried, looks at no interface,
// resolves no name and opens no socket; the only thing it touches outside is
// the configuration file with those that it includes.
//
// The grammar is a table ([Modifiers], [Kinds], [Directives]) from which
// completion, the manual and the JSON schema are made as well. Input is
// bounded: a file has at most 16 MiB, a line 64 KiB, a block 1000 lines, and
// parsing takes time and memory in proportion to the text. All functions may
// be called concurrently; what they return belongs to the caller.
package config
