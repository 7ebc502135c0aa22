//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: the benchmark runs on Linux only: it is made of network namespaces")
	os.Exit(1)
}
