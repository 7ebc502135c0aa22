package load

// trainLength is how many datagrams a train of size bytes in segments of
// segment bytes is; a segment of 0 is no train.
func trainLength(size, segment int) int64 {
	if segment < 1 || size <= segment {
		return 1
	}
	return int64((size + segment - 1) / segment)
}
