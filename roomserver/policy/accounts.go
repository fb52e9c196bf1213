package policy

import (
	"fmt"
	"strings"

	"maunium.net/go/mautrix/id"
)

// EmailDomains are the domains whose addresses may have accounts: "example.org" is itself alone, "*.example.org" all that
// is beneath it. None at all means every domain.
type EmailDomains []string

// Validate refuses patterns that would mean something else than they seem to.
func (d EmailDomains) Validate() error {
	for _, pattern := range d {
		name := strings.TrimPrefix(pattern, "*.")
		if name == "" || strings.ContainsAny(name, "*@ /") || strings.HasPrefix(name, ".") {
			return fmt.Errorf("%q is neither like example.org nor like *.example.org", pattern)
		}
	}
	return nil
}

// Allow says whether the address, whose form is checked already, may have an account.
func (d EmailDomains) Allow(address string) bool {
	if len(d) == 0 {
		return true
	}
	_, domain, ok := strings.Cut(strings.ToLower(address), "@")
	if !ok {
		return false
	}
	for _, pattern := range d {
		pattern = strings.ToLower(pattern)
		if above, ok := strings.CutPrefix(pattern, "*"); ok && strings.HasSuffix(domain, above) && len(domain) > len(above) || domain == pattern {
			return true
		}
	}
	return false
}

// Exempt are parts of user IDs: whoever's ID holds one of them is meant.
type Exempt []string

// Validate refuses a part that would mean everybody.
func (e Exempt) Validate() error {
	for _, part := range e {
		if strings.Trim(part, "@: ") == "" {
			return fmt.Errorf("%q is part of every user ID", part)
		}
	}
	return nil
}

// Names says whether the user is meant.
func (e Exempt) Names(user id.UserID) bool {
	for _, part := range e {
		if strings.Contains(string(user), part) {
			return true
		}
	}
	return false
}
