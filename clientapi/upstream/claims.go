package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/template"
	"unicode/utf8"

	"chancery/roomserver/policy"
)

// Bounds on what a provider may say of somebody.
const (
	maxClaims     = 64 << 10 // bytes of JSON
	maxClaimDepth = 4
	maxSubject    = 255
	maxName       = 200 // characters of a display name
)

// claims are what a provider says of somebody, each as text. A claim within another is "outer.inner", a list is its
// values one a line.
type claims map[string]string

// add lays more claims over these; what is there already goes.
func (c claims) add(raw []byte) error {
	if len(raw) > maxClaims {
		return errors.New("upstream: too many claims")
	}
	var values map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	if err := decoder.Decode(&values); err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	c.flatten("", values, maxClaimDepth)
	return nil
}

func (c claims) flatten(prefix string, values map[string]any, depth int) {
	for name, value := range values {
		if inner, ok := value.(map[string]any); ok {
			if depth > 1 {
				c.flatten(prefix+name+".", inner, depth-1)
			}
			continue
		}
		if text, ok := claimText(value); ok {
			c[prefix+name] = text
		}
	}
}

func claimText(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return strings.ReplaceAll(v, "\x00", ""), utf8.ValidString(v)
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	case []any:
		var lines []string
		for _, each := range v {
			if _, nested := each.([]any); nested {
				continue
			}
			if text, ok := claimText(each); ok {
				lines = append(lines, text)
			}
		}
		return strings.Join(lines, "\n"), true
	}
	return "", false
}

// holds says whether a claim is this, or a list with it.
func (c claims) holds(name, value string) bool {
	text, ok := c[name]
	if !ok {
		return false
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line == value {
			return true
		}
	}
	return false
}

// mapping makes names of claims.
type mapping struct {
	email, localpart, displayName *template.Template
}

func newMapping(c ProviderConfig, suffixes []string) (m mapping, err error) {
	functions := template.FuncMap{
		"lower":       strings.ToLower,
		"localpart":   policy.Localpart,
		"displayname": func(address string) string { return policy.DisplayName(address, suffixes) },
	}
	parse := func(name, text string) *template.Template {
		parsed, parseErr := template.New(name).Funcs(functions).Option("missingkey=zero").Parse(text)
		if parseErr == nil {
			_, parseErr = fill(parsed, claims{})
		}
		err = errors.Join(err, parseErr)
		return parsed
	}
	return mapping{parse("email", c.Email), parse("localpart", c.Localpart), parse("display_name", c.DisplayName)}, err
}

// fill runs a template over claims, and trims what comes of it.
func fill(t *template.Template, c claims) (string, error) {
	var out strings.Builder
	if err := t.Execute(&out, c); err != nil {
		return "", err
	}
	return strings.Join(strings.Fields(out.String()), " "), nil
}
