package kernel

// A spot is one key under which packets find a forward.
type spot struct{}

type span struct{}

func (c *compiler) translate() {}
