package nft

// Text is the table in nft(8)'s words, as "nft -f" takes it.
func (t *Table) Text() string { return "" }
