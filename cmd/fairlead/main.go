// Command fairlead forwards connections: one sentence on the command line, or
// a file of sentences under a service. It is the only package that names
// concrete parts of the house together, and the only one that exits.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(newProgram(context.Background(), os.Stdout, os.Stderr, os.Getenv).run(os.Args[1:]))
}
