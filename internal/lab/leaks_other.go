//go:build !linux

package lab

func holdings() map[string]string { return nil }
