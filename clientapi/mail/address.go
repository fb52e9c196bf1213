package mail

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"unicode"

	"golang.org/x/text/language"
)

// maxAddress is the length of an address, by RFC 5321.
const maxAddress = 254

var errAddress = errors.New("this is not an e-mail address")

// Address gives an e-mail address in the form in which it is kept and compared: alone, trimmed, in small letters. The
// rare addresses with quoted parts, spaces or several domains are refused, and so is everything with a line break.
func Address(text string) (string, error) {
	text = strings.TrimSpace(text)
	if text == "" || len(text) > maxAddress || oneLine(text) != nil || strings.ContainsAny(text, "<>()\",;: \\") {
		return "", errAddress
	}
	parsed, err := mail.ParseAddress(text)
	if err != nil || parsed.Name != "" || parsed.Address != text || strings.Count(text, "@") != 1 {
		return "", errAddress
	}
	return strings.ToLower(text), nil
}

// Domain is what stands behind the @ of an address that Address gave.
func Domain(address string) string {
	_, domain, _ := strings.Cut(address, "@")
	return domain
}

// oneLine refuses text that could begin another header.
func oneLine(text string) error {
	for _, c := range text {
		if unicode.IsControl(c) || c == '\u2028' || c == '\u2029' || c == unicode.ReplacementChar {
			return fmt.Errorf("text of a header holds %q", c)
		}
	}
	return nil
}

// sender parts "Name <address>".
func sender(from string) (name, address string, err error) {
	if err := oneLine(from); err != nil {
		return "", "", err
	}
	parsed, err := mail.ParseAddress(from)
	if err != nil {
		return "", "", fmt.Errorf("%q is not like \"Name <address>\"", from)
	}
	address, err = Address(parsed.Address)
	return parsed.Name, address, err
}

// messageID is a name for a mail from this address, without the brackets. The library would take the host's name, which
// is nobody's business.
func messageID(address string) string {
	return rand.Text() + "@" + Domain(address)
}

// Languages in which there are mails; the first is what all else falls back to.
var Languages = []string{"en", "fr", "nl", "de"}

var matcher = language.NewMatcher([]language.Tag{language.English, language.French, language.Dutch, language.German})

func known(lang string) bool {
	for _, l := range Languages {
		if l == lang {
			return true
		}
	}
	return false
}

// Language chooses one of ours by what a browser or a pusher says ("fr-FR,fr;q=0.9"); fallback if it says nothing of use.
func Language(wanted, fallback string) string {
	if len(wanted) > 200 {
		return fallback
	}
	tags, _, err := language.ParseAcceptLanguage(wanted)
	if err != nil || len(tags) == 0 {
		return fallback
	}
	_, index, confidence := matcher.Match(tags...)
	if confidence == language.No {
		return fallback
	}
	return Languages[index]
}
