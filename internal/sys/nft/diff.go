package nft

func diff(old, t *Table) (Change, bool) { return Change{}, false }
