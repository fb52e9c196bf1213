package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Localpart makes a username of an e-mail address, for those who do not choose one: john.doe-example.com of
// John.Doe@example.com. Empty where nothing of it can stand in a name.
func Localpart(address string) string {
	name := strings.ReplaceAll(strings.ToLower(address), "@", "-")
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.ContainsRune("_-./=", c) {
			return c
		}
		return -1
	}, name)
}

// DisplayName makes the name that others see of an e-mail address: "John Doe [Example]" of john.doe@example.com. In
// brackets stands the label of the domain before one of the suffixes ("gouv.fr": Interieur of x@y.interieur.gouv.fr), or
// else the one before the last. Empty for what is no address.
func DisplayName(address string, suffixes []string) string {
	local, domain, ok := strings.Cut(address, "@")
	if !ok || local == "" || domain == "" || strings.Contains(domain, "@") {
		return ""
	}
	words := strings.FieldsFunc(local, func(c rune) bool { return c == '.' })
	for i, word := range words {
		parts := strings.Split(word, "-")
		for j, part := range parts {
			parts[j] = capital(part)
		}
		words[i] = strings.Join(parts, "-")
	}
	return strings.Join(words, " ") + " [" + capital(label(strings.ToLower(domain), suffixes)) + "]"
}

// label is the part of a domain that names whose it is.
func label(domain string, suffixes []string) string {
	for _, suffix := range suffixes {
		suffix = strings.ToLower(strings.Trim(suffix, "."))
		if domain == suffix {
			first, _, _ := strings.Cut(suffix, ".")
			return first
		}
		if above, ok := strings.CutSuffix(domain, "."+suffix); ok {
			return above[strings.LastIndexByte(above, '.')+1:]
		}
	}
	labels := strings.Split(domain, ".")
	return labels[max(0, len(labels)-2)]
}

// capital is a word with its first letter raised; the others stay as they are.
func capital(word string) string {
	first, size := utf8.DecodeRuneInString(word)
	if size == 0 || first == utf8.RuneError {
		return word
	}
	return string(unicode.ToUpper(first)) + word[size:]
}
