package nft

// understand reads the rules of the table, of which the sets are known by now.
func (t *Table) understand() {}
