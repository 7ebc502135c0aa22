package config

import (
	"encoding/json"
	"fmt"

	"fairlead"
)

// Schema is the JSON Schema (draft 2020-12) of a configuration as JSON. It is
// made from the same tables as everything else.
func Schema() []byte {
	type object = map[string]any
	text := func(help string) object { return object{"type": "string", "description": help} }
	texts := object{"oneOf": []any{object{"type": "string"}, object{"type": "array", "items": object{"type": "string"}}}}
	closed := func(properties object, required ...string) object {
		o := object{"type": "object", "properties": properties, "additionalProperties": false}
		if len(required) > 0 {
			o["required"] = required
		}
		return o
	}
	target := object{"oneOf": []any{
		object{"type": "string"},
		closed(object{
			"dest": text("HOST[:PORTS], [V6][:PORTS], self[:PORT] or unix:PATH"),
		}, "dest"),
	}}
	for _, m := range targetWords {
		s := object{"oneOf": texts["oneOf"]}
		switch m.field.(type) {
		case targetFlag:
			s = object{"type": "boolean"}
		case resolveField:
			s = object{"enum": m.Choices}
		case weightField:
			s = object{"type": []string{"integer", "string"}}
		}
		s["description"] = m.Help
		target["oneOf"].([]any)[1].(object)["properties"].(object)[m.Word] = s
	}
	grant := closed(object{"listen": texts, "dial": texts})
	user := closed(object{
		"user": object{"type": "string"}, "agent": object{"type": "string"},
		"password": text("a file"), "keys": text("a file"), "key": text("a public key"),
		"may": object{"type": "array", "items": grant},
	})
	defaults, typed := object{}, object{
		"name":   object{"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9._-]{0,62}$"},
		"kind":   object{"enum": kindWords},
		"listen": object{"type": []string{"string", "integer"}, "description": "[PLACE:]PORTS[/NETWORK] or unix:PATH"},
		"to":     object{"oneOf": []any{object{"type": "string"}, target["oneOf"].([]any)[1], object{"type": "array", "items": target}}},
		"users":  object{"type": "array", "items": user},
	}
	for i := range modifiers {
		m := &modifiers[i]
		if s := m.schema(texts); s != nil {
			s["description"] = m.Help
			typed[m.Word] = s
			if !m.noDefault {
				defaults[m.Word] = s
			}
		}
	}
	place := object{
		"name": typed["name"],
		"type": object{"enum": placeTypeWords},
		"to":   texts,
	}
	for _, t := range placeTypes {
		for _, o := range t.Options {
			place[o.Word] = text(o.Value)
		}
	}
	schema := object{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"title":   "fairlead configuration",
		"type":    "object",
		"properties": object{
			"schema":   object{"const": SchemaName},
			"version":  object{"const": 1},
			"wan":      texts,
			"lan":      texts,
			"include":  texts,
			"places":   object{"type": "array", "items": closed(place, "name", "type")},
			"registry": closed(object{"type": object{"enum": []string{"etcd"}}, "to": texts}, "type", "to"),
			"defaults": closed(defaults),
			"forwards": object{"type": "array", "items": object{"oneOf": []any{
				closed(typed, "name", "kind"),
				closed(object{"name": typed["name"], "expr": text("a whole sentence")}, "name", "expr"),
			}}},
		},
		"additionalProperties": false,
	}
	out, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("config: the schema has no JSON form: %v", err)) // nothing of it comes from outside
	}
	return append(out, '\n')
}

// schema is the form of a modifier's value, nil where it is no field of its
// own.
func (m *Modifier) schema(texts map[string]any) map[string]any {
	type object = map[string]any
	switch m.field.(type) {
	case flag:
		return object{"type": "boolean"}
	case choice, versionField:
		return object{"enum": m.Choices}
	case count:
		return object{"type": []string{"integer", "string"}}
	case markField, dscpField:
		return object{"type": []string{"integer", "string"}}
	case prefixes, fromField, opensField, sourceField, textsField, scheduleField:
		return object{"oneOf": texts["oneOf"]}
	case checkField:
		return object{"oneOf": []any{
			object{"enum": []string{"tcp", "http", "off"}},
			object{"type": "object", "properties": object{
				"how": object{"enum": checkHows}, "path": object{"type": "string"}, "every": object{"type": "string"},
				"send": object{"type": "string"}, "expect": object{"type": "string"},
				"rise": object{"type": []string{"integer", "string"}}, "fall": object{"type": []string{"integer", "string"}},
			},
				"required": []string{"how"}, "additionalProperties": false},
		}}
	case certField:
		one := []any{object{"type": "string"}, object{"type": "object",
			"properties": object{"cert": object{"type": "string"}, "key": object{"type": "string"}},
			"required":   []string{"cert"}, "additionalProperties": false}}
		return object{"oneOf": append(one, object{"type": "array", "items": object{"oneOf": one}})}
	case targetTLSField:
		return object{"enum": []any{true, false, fairlead.TargetVerify, fairlead.TargetInsecure}}
	case bandwidthField:
		return object{"oneOf": []any{
			object{"type": "string"},
			object{"type": "object", "properties": object{"up": object{"type": "string"}, "down": object{"type": "string"}},
				"minProperties": 1, "additionalProperties": false},
		}}
	case pacField:
		return object{"enum": []any{true, false, "kill-switch"}}
	case userField, mayField, certKeyField:
		return nil
	}
	if m.ofTarget() {
		return nil
	}
	return object{"type": "string"}
}
