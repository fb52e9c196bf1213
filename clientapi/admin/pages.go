package admin

import (
	"strconv"

	"maunium.net/go/mautrix"

	"chancery/clientapi/rest"
)

// maxPage bounds one page of any list.
const maxPage = 1000

// page reads dir, from and limit. from counts from the beginning of the list: the tools compute it themselves.
func page(r *rest.Request) (backward bool, offset, limit int, err error) {
	switch dir := r.Query("dir"); dir {
	case "", "f":
	case "b":
		backward = true
	default:
		return false, 0, 0, mautrix.MInvalidParam.WithMessage("dir is neither f nor b")
	}
	if offset, err = natural(r, "from", 0); err == nil {
		limit, err = natural(r, "limit", 100)
	}
	return backward, offset, min(limit, maxPage), err
}

// natural is a query parameter that is a number, and not a negative one.
func natural(r *rest.Request, name string, fallback int) (int, error) {
	n, err := r.Int(name, fallback, -1, 1<<53)
	if err == nil && n < 0 {
		err = mautrix.MInvalidParam.WithMessage("%s is negative", name)
	}
	return n, err
}

// flag is a query parameter that is true, false or absent.
func flag(r *rest.Request, name string) (*bool, error) {
	if r.Query(name) == "" {
		return nil, nil
	}
	set, err := r.Bool(name)
	return &set, err
}

// paged adds to a page where the next one begins, if there is one. Of the tools' lists some have a number there, some a text.
func paged(answer map[string]any, offset, shown, total int, asText bool) map[string]any {
	next := offset + shown
	switch {
	case shown == 0 || next >= total:
	case asText:
		answer["next_token"] = strconv.Itoa(next)
	default:
		answer["next_token"] = next
	}
	return answer
}
