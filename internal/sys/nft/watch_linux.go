package nft

import (
	"context"

	"golang.org/x/sys/unix"
)

// mostTouched is how many tables of one transaction are told apart; with more,
// anything may have changed.
const mostTouched = 1024

func watch(ctx context.Context, ready func(), told func(Notice)) error {
	var w watcher
	w.told = told
	return listen(ctx, unix.NFNLGRP_NFTABLES, ready, w.took, func() {
		w = watcher{told: told}
		told(Notice{Lost: true})
	})
}

// A watcher gathers what a transaction touches: the kernel sends its parts,
// then one message that says who did it.
type watcher struct {
	told    func(Notice)
	touched []placed
	many    bool
}

func (w *watcher) took(r reply) {
	a := attributes(r.attrs)
	switch kind := r.kind; {
	case kind == unix.NFT_MSG_NEWGEN:
		n := Notice{
			By:   r.port,
			PID:  int(a.u32(unix.NFTA_GEN_PROC_PID)),
			Name: a.str(unix.NFTA_GEN_PROC_NAME),
			Lost: w.many,
		}
		touched := w.touched
		w.touched, w.many = nil, false
		if n.Lost {
			w.told(n)
			return
		}
		for _, at := range touched {
			n.Family, n.Table = at.family, at.table
			w.told(n)
		}
	case r.port == 0:
		// No process did it: a quota that is used up says so by itself.
	case a.has(unix.NFTA_TABLE_NAME): // the same number in whatever belongs to a table
		at := placed{r.family, a.str(unix.NFTA_TABLE_NAME)}
		for _, seen := range w.touched {
			if seen == at {
				return
			}
		}
		if len(w.touched) == mostTouched {
			w.touched, w.many = nil, true
		}
		if !w.many {
			w.touched = append(w.touched, at)
		}
	}
}
