package appservice

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"maunium.net/go/mautrix/id"
)

// Registration is what an operator allows an application service, as its file says.
// Spec: application-service-api/#registration
type Registration struct {
	ID     string  `yaml:"id"`
	URL    *string `yaml:"url"`
	ASTok  string  `yaml:"as_token"`
	HSTok  string  `yaml:"hs_token"`
	Sender string  `yaml:"sender_localpart"`
	// RateLimited holds its users to the rate limits; true if the file does not say. The sender is never held.
	RateLimited *bool    `yaml:"rate_limited"`
	Protocols   []string `yaml:"protocols"`
	Namespaces  struct {
		Users   []Namespace `yaml:"users"`
		Aliases []Namespace `yaml:"aliases"`
		Rooms   []Namespace `yaml:"rooms"`
	} `yaml:"namespaces"`

	// Ephemeral asks for typing, receipts and presence; OldEphemeral does under the name of before.
	Ephemeral    bool `yaml:"receive_ephemeral"`
	OldEphemeral bool `yaml:"de.sorunome.msc2409.push_ephemeral"`
	// Encryption asks for to-device messages, device lists and counts of keys. Spec: MSC3202, MSC2409
	Encryption bool `yaml:"org.matrix.msc3202"`
}

// Namespace is a set of user IDs, aliases or room IDs.
type Namespace struct {
	Regex     string `yaml:"regex"`
	Exclusive bool   `yaml:"exclusive"`

	compiled *regexp.Regexp
}

// maxRegistration bounds a registration file, in bytes.
const maxRegistration = 1 << 20

// Parse reads a registration. Keys that it does not know it leaves alone: services keep notes of their own there.
func Parse(raw []byte) (*Registration, error) {
	if len(raw) > maxRegistration {
		return nil, errors.New("registration is larger than 1 MiB")
	}
	r := &Registration{}
	if err := yaml.NewDecoder(bytes.NewReader(raw)).Decode(r); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("registration is empty")
		}
		return nil, err
	}
	return r, r.check()
}

func (r *Registration) check() error {
	switch {
	case r.ID == "" || len(r.ID) > 255:
		return errors.New("id is missing or too long")
	case r.ASTok == "" || r.HSTok == "":
		return errors.New("as_token or hs_token is missing")
	case r.Sender == "" || strings.ContainsAny(r.Sender, "@:\x00"):
		return errors.New("sender_localpart is missing, or is not a localpart")
	}
	if address := r.address(); address != "" {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("url %q is no address of the web", address)
		}
	}
	for _, list := range [][]Namespace{r.Namespaces.Users, r.Namespaces.Aliases, r.Namespaces.Rooms} {
		for i := range list {
			// Matched from the beginning, and not to the end: that is what files were written for.
			compiled, err := regexp.Compile("^(?:" + list[i].Regex + ")")
			if err != nil || list[i].Regex == "" {
				return fmt.Errorf("namespace %q is no regular expression", list[i].Regex)
			}
			list[i].compiled = compiled
		}
	}
	return nil
}

// address is where the service listens; empty if it wants no traffic.
func (r *Registration) address() string {
	if r.URL == nil {
		return ""
	}
	return strings.TrimRight(*r.URL, "/")
}

// match says whether the name is in one of the namespaces, and whether in an exclusive one.
func match(list []Namespace, name string) (in, exclusive bool) {
	for _, n := range list {
		if n.compiled.MatchString(name) {
			in, exclusive = true, exclusive || n.Exclusive
		}
	}
	return in, exclusive
}

// load reads the registrations of the configuration: files by their names, and those of the folder.
func load(cfg Config) ([]*Registration, error) {
	paths := slices.Clone(cfg.Registrations)
	if cfg.Folder != "" {
		for _, pattern := range []string{"*.yaml", "*.yml"} {
			found, err := filepath.Glob(filepath.Join(cfg.Folder, pattern))
			if err != nil {
				return nil, err
			}
			paths = append(paths, found...)
		}
	}
	slices.Sort(paths)
	var list []*Registration
	ids, tokens := map[string]string{}, map[string]string{}
	for _, path := range slices.Compact(paths) {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		r, err := Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		// Spec: each as_token and id MUST be unique.
		if other, ok := ids[r.ID]; ok {
			return nil, fmt.Errorf("%s has the id of %s", path, other)
		}
		if other, ok := tokens[r.ASTok]; ok {
			return nil, fmt.Errorf("%s has the as_token of %s", path, other)
		}
		ids[r.ID], tokens[r.ASTok] = path, path
		list = append(list, r)
	}
	return list, nil
}

// sender is the service's own user.
func (r *Registration) sender(serverName string) id.UserID { return id.NewUserID(r.Sender, serverName) }
