package load

// trainLength is how many datagrams a train of size bytes in segments of
// segment bytes is; a segment of 0 is no train.
func trainLength(size, segment int) int64 {
	if segment < 1 || size <= segment {
		return 1
	}
	return int64((size + segment - 1) / segment)
}

// rank is the p-quantile, by nearest rank, of sorted nanoseconds in
// microseconds.
func rank(sorted []uint32, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := int(p*float64(len(sorted)) + 0.9999999)
	return float64(sorted[min(max(i, 1), len(sorted))-1]) / 1e3
}
