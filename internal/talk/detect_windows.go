package talk

// understandsEscapes reports whether the terminal takes escape sequences. The
// old console does so only after a switch that is not ours to throw; Windows
// Terminal and the terminals that set TERM do.
func understandsEscapes(getenv func(string) string) bool {
	return getenv("WT_SESSION") != "" || getenv("TERM") != ""
}
