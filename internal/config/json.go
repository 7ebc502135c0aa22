package config

import "fairlead"

func (l *loader) json(src *source) {
	l.list.addProblem(fairlead.Problemf(fairlead.CodeJSON, "%s: this version does not read JSON", src.called()))
}
