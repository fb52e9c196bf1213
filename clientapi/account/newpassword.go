package account

import (
	"bufio"
	"bytes"
	"crypto/sha1" //nolint:gosec // the lists of breached passwords are made of it
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
)

//go:embed common.txt
var commonSource string

// common are the passwords that everybody tries first, in small letters.
var common = sync.OnceValue(func() map[string]bool {
	set := map[string]bool{}
	for word := range strings.FieldsSeq(commonSource) {
		set[word] = true
	}
	return set
})

// need is a kind of character that a new password may have to have.
type need struct {
	name    string // in the configuration
	policy  string // in the policy endpoint
	errcode string
	what    string
	is      func(rune) bool
}

// needs are those of MSC2000.
var needs = []need{
	{"digit", "m.require_digit", "M_PASSWORD_NO_DIGIT", "a digit", unicode.IsDigit},
	{"symbol", "m.require_symbol", "M_PASSWORD_NO_SYMBOL", "a symbol", func(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsDigit(c) }},
	{"lowercase", "m.require_lowercase", "M_PASSWORD_NO_LOWERCASE", "a small letter", unicode.IsLower},
	{"uppercase", "m.require_uppercase", "M_PASSWORD_NO_UPPERCASE", "a capital", unicode.IsUpper},
}

func checkNeeds(names []string) error {
	for _, name := range names {
		if !slices.ContainsFunc(needs, func(n need) bool { return n.name == name }) {
			return fmt.Errorf("account.password_needs: %q is none of digit, symbol, lowercase, uppercase", name)
		}
	}
	return nil
}

// PasswordPolicy handles GET /_matrix/client/v3/password_policy, and the same under unstable/org.matrix.msc2000. Only the
// five keys that clients know are said, and those that are not demanded are left out.
// Spec: MSC2000
func (h *Handlers) PasswordPolicy(*rest.Request) (any, error) {
	policy := map[string]any{"m.minimum_length": h.cfg.PasswordLength}
	for _, n := range needs {
		if slices.Contains(h.cfg.PasswordNeeds, n.name) {
			policy[n.policy] = true
		}
	}
	return policy, nil
}

func refused(errcode, format string, args ...any) error {
	return mautrix.RespError{ErrCode: errcode, StatusCode: http.StatusBadRequest}.WithMessage(format, args...)
}

// checkNew says whether a password may be somebody's from now on.
func (p *Passwords) checkNew(password string) error {
	if password == "" {
		return errMissing.WithMessage("A password is needed")
	}
	if len(password) > maxPassword {
		return mautrix.MInvalidParam.WithMessage("The password is longer than %d bytes", maxPassword)
	}
	if utf8.RuneCountInString(password) < p.cfg.PasswordLength {
		return refused("M_PASSWORD_TOO_SHORT", "The password needs at least %d characters", p.cfg.PasswordLength)
	}
	for _, n := range needs {
		if slices.Contains(p.cfg.PasswordNeeds, n.name) && !strings.ContainsFunc(password, n.is) {
			return refused(n.errcode, "The password needs %s", n.what)
		}
	}
	if !p.cfg.CommonPasswords && common()[strings.ToLower(password)] {
		return refused("M_WEAK_PASSWORD", "This password is one of those that everybody tries first")
	}
	if p.cfg.BreachedPasswords == "" {
		return nil
	}
	found, err := breached(p.cfg.BreachedPasswords, password)
	if err == nil && found {
		err = refused("M_WEAK_PASSWORD", "This password is known from a breach of some other service")
	}
	return err
}

// breached looks the password up in a file whose lines are SHA-1 hashes in hexadecimal, perhaps with ":" and a count
// behind, in ascending order: the form in which Have I Been Pwned gives them. It reads a few lines of it, by bisection.
func breached(path, password string) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("breached passwords: %w", err)
	}
	defer file.Close()
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return false, fmt.Errorf("breached passwords: %w", err)
	}
	sum := sha1.Sum([]byte(password)) //nolint:gosec // see above
	want := []byte(strings.ToUpper(hex.EncodeToString(sum[:])))
	low, high := int64(0), end
	for low < high {
		middle := low + (high-low)/2
		start, line, err := lineAfter(file, middle, end)
		if err != nil {
			return false, fmt.Errorf("breached passwords: %w", err)
		}
		if start >= high { // the last line of what is left
			high = middle
			continue
		}
		switch order := bytes.Compare(bytes.ToUpper(line[:min(len(line), len(want))]), want); {
		case order == 0:
			return true, nil
		case order < 0:
			low = start + int64(len(line)) + 1
		default:
			high = middle
		}
	}
	return false, nil
}

// maxLine bounds a line of that file.
const maxLine = 256

// lineAfter is the first line that begins at this place or after it, and where.
func lineAfter(file *os.File, place, end int64) (start int64, line []byte, err error) {
	from := max(place-1, 0) // the line may begin here
	reader := bufio.NewReaderSize(io.NewSectionReader(file, from, end-from), 2*maxLine)
	start = from
	if place > 0 {
		skipped, err := reader.ReadSlice('\n')
		start += int64(len(skipped))
		if errors.Is(err, io.EOF) {
			return end, nil, nil
		}
		if err != nil {
			return 0, nil, err
		}
	}
	line, err = reader.ReadSlice('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, nil, err
	}
	return start, bytes.TrimSuffix(line, []byte("\n")), nil
}
