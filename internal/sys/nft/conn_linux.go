package nft

// A conn is the socket that speaks for the namespace it was opened in, and that
// tables with an owner belong to.
type conn struct {
	*socket
}

func open() (conn, error) {
	s, err := openSocket()
	return conn{s}, err
}

func (c conn) id() uint32 { return c.port }
