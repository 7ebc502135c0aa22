package config

// nearest is the candidate that word was probably meant to be, "" when none is
// near enough: a third of the word may differ, at least one letter.
func nearest(word string, candidates ...[]string) string {
	if word == "" || len(word) > 40 {
		return ""
	}
	best, limit := "", max(1, len(word)/3)
	for _, list := range candidates {
		for _, c := range list {
			if c == word {
				continue
			}
			if d := distance(word, c, limit); d <= limit && d < len(c) {
				// The first letter is rarely the wrong one.
				if best == "" || d < limit || best[0] != word[0] && c[0] == word[0] {
					best, limit = c, d
				}
			}
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour that make b of a (optimal string alignment), or returns more than
// limit as soon as it is clear that there are more.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d > limit || -d > limit || len(b) > 60 {
		return limit + 1
	}
	var rows [3][64]int
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j := 0; j <= len(b); j++ {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if lower(a[i-1]) == lower(b[j-1]) {
				cost = 0
			}
			d := min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, before[j-2]+1)
			}
			row[j] = d
			least = min(least, d)
		}
		if least > limit {
			return limit + 1
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
