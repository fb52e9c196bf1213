package account

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
)

// Terms is a document that everybody accepts who registers.
type Terms struct {
	// Name of the document in the protocol, such as "privacy_policy".
	Name string `yaml:"name"`
	// Version of the document.
	Version string `yaml:"version"`
	// Languages are the document's title and address, by language ("en", "fr").
	Languages map[string]TermsText `yaml:"languages"`
}

// TermsText is a document in one language.
type TermsText struct {
	Title string `yaml:"title" json:"name"`
	URL   string `yaml:"url" json:"url"`
}

func checkTerms(terms []Terms) error {
	for _, t := range terms {
		if t.Name == "" || t.Version == "" || len(t.Languages) == 0 {
			return errors.New("account.terms: each document needs a name, a version and languages")
		}
		for lang, text := range t.Languages {
			if text.Title == "" || !strings.HasPrefix(text.URL, "https://") && !strings.HasPrefix(text.URL, "http://") {
				return fmt.Errorf("account.terms: %s in %q needs a title and a url", t.Name, lang)
			}
		}
	}
	return nil
}

// in is the document in this language, or else in English, or else in the first by name.
func (t Terms) in(lang string) TermsText {
	for _, wanted := range append([]string{lang, "en"}, slices.Sorted(maps.Keys(t.Languages))...) {
		if text, ok := t.Languages[wanted]; ok {
			return text
		}
	}
	return TermsText{}
}

// termsParams is what m.login.terms tells clients.
// Spec: client-server-api/#terms-of-service-at-registration
func termsParams(terms []Terms) map[string]any {
	policies := map[string]any{}
	for _, t := range terms {
		policy := map[string]any{"version": t.Version}
		for lang, text := range t.Languages {
			policy[lang] = text
		}
		policies[t.Name] = policy
	}
	return map[string]any{rest.StageTerms: map[string]any{"policies": policies}}
}

// flows are the ways in which a stranger may register now; none: registration is closed. It is as long as nobody has
// made a token.
func (h *Handlers) flows(ctx context.Context) ([][]string, error) {
	email := h.mailer != nil
	var flows [][]string
	if h.cfg.OpenRegistration {
		flows = append(flows, h.stages())
		if email && !h.cfg.EmailRequired {
			flows = append(flows, h.stages(rest.StageEmail))
		}
		return flows, nil
	}
	if h.cfg.RegistrationTokens {
		any, err := h.store.RegistrationTokens.Any(ctx)
		if err != nil {
			return nil, err
		}
		if any {
			flows = append(flows, h.stages(rest.StageRegistrationToken))
		}
	}
	if email && h.cfg.EmailRegistration {
		flows = append(flows, h.stages(rest.StageEmail))
	}
	return flows, nil
}

// stages completes a flow by what everybody has to pass.
func (h *Handlers) stages(stages ...string) []string {
	if h.cfg.EmailRequired && !slices.Contains(stages, rest.StageEmail) {
		stages = append(stages, rest.StageEmail)
	}
	if len(h.cfg.Terms) > 0 {
		stages = append(stages, rest.StageTerms)
	}
	if len(stages) == 0 {
		stages = append(stages, rest.StageDummy)
	}
	return stages
}

// Reserved says whether the operator keeps this name.
func (c Config) Reserved(local string) bool {
	for _, pattern := range c.ReservedNames {
		if reserved, err := path.Match(strings.ToLower(pattern), local); err == nil && reserved {
			return true
		}
	}
	return false
}

// mayChoose refuses names that nobody gives themselves: those that belong to an application service, those that the
// operator keeps, and numbers, which are guests'.
func (h *Handlers) mayChoose(local string) error {
	user, ok := h.userID(local)
	if ok && h.exclusive(user) {
		return mautrix.MExclusive.WithMessage("This username belongs to an application service")
	}
	if strings.Trim(local, "0123456789") == "" {
		return mautrix.MInvalidUsername.WithMessage("A username cannot be a number")
	}
	if h.cfg.Reserved(local) {
		return mautrix.MUserInUse.WithMessage("This username is reserved")
	}
	return nil
}
