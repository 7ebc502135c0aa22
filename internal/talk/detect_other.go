//go:build !windows

package talk

// understandsEscapes reports whether the terminal takes escape sequences.
func understandsEscapes(func(string) string) bool { return true }
