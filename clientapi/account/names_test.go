package account

import "testing"

func TestNumbered(t *testing.T) {
	for name, want := range map[string]string{
		"anna-example.com": "anna-example.com1", "anna-example.com1": "anna-example.com2", "anna9": "anna10",
		"anna-99999999999999999999": "anna-999999999999999999991", "7": "8",
	} {
		if got := numbered(name); got != want {
			t.Errorf("after %s: got %s, want %s", name, got, want)
		}
	}
}
