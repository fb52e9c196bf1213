package view

import "testing"

func FuzzDirectoryToken(f *testing.F) {
	f.Add(directoryPlace{3, "!a:interior"}.token("n"))
	f.Add(directoryPlace{0, "!a"}.token("p"))
	f.Add("x")
	f.Fuzz(func(t *testing.T, text string) {
		place, backwards, err := parseDirectoryToken(text)
		if err != nil || place == nil {
			return
		}
		direction := "n"
		if backwards {
			direction = "p"
		}
		if again, _, err := parseDirectoryToken(place.token(direction)); err != nil || *again != *place {
			t.Errorf("%q is read as %+v, and that as %+v (%v)", text, place, again, err)
		}
	})
}
