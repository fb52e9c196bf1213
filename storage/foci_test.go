package storage

import (
	"testing"
)

func TestACallHasOneHome(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		ctx := t.Context()
		foci := openStore(t, cfg).Foci
		home := func(call string) string {
			t.Helper()
			f, err := foci.Home(ctx, call)
			if err != nil {
				t.Fatal(err)
			}
			if f == nil {
				return ""
			}
			return f.Process
		}
		claim := func(call, process string) string {
			t.Helper()
			f, err := foci.Claim(ctx, call, process)
			if err != nil {
				t.Fatal(err)
			}
			if f == nil {
				return ""
			}
			return f.Process
		}
		for process, address := range map[string]string{"a": "http://10.0.0.1", "b": "http://10.0.0.2"} {
			if err := foci.Begin(ctx, process, address); err != nil {
				t.Fatal(err)
			}
		}
		for i, c := range []struct{ got, want string }{
			{home("call"), ""}, {claim("call", "a"), "a"}, {claim("call", "b"), "a"}, {claim("call", "a"), "a"}, {home("call"), "a"},
			{claim("other", "b"), "b"}, {claim("third", "nobody"), ""},
		} {
			if c.got != c.want {
				t.Errorf("step %d: got home %q, want %q", i, c.got, c.want)
			}
		}
		if alive, err := foci.Beat(ctx, "a"); !alive || err != nil {
			t.Errorf("beat: got %v, %v", alive, err)
		}
		if buried, err := foci.Bury(ctx, "a", 1); buried || err != nil {
			t.Errorf("buried by an old beat: got %v, %v", buried, err)
		}
		if buried, err := foci.Bury(ctx, "a", 2); !buried || err != nil {
			t.Errorf("bury: got %v, %v", buried, err)
		}
		if alive, err := foci.Beat(ctx, "a"); alive || err != nil {
			t.Errorf("beat of the buried: got %v, %v", alive, err)
		}
		if got := home("call"); got != "" {
			t.Errorf("after the burial: got home %q, want none", got)
		}
		if got := claim("call", "a"); got != "" {
			t.Errorf("claimed by the buried: got home %q, want none", got)
		}
		if got := claim("call", "b"); got != "b" {
			t.Errorf("claimed by another: got home %q, want b", got)
		}
		if calls, err := foci.Calls(ctx, "b"); err != nil || len(calls) != 2 {
			t.Errorf("calls of b: got %v, %v, want two", calls, err)
		}
		if err := foci.Release(ctx, "call", "a"); err != nil || home("call") != "b" {
			t.Errorf("released by another: got home %q, %v, want b", home("call"), err)
		}
		if err := foci.ReleaseAll(ctx, "b"); err != nil || home("call")+home("other") != "" {
			t.Errorf("released: got homes %q %q, %v, want none", home("call"), home("other"), err)
		}
		if list, err := foci.All(ctx); err != nil || len(list) != 1 || list[0].Process != "b" || list[0].Address != "http://10.0.0.2" {
			t.Errorf("all: got %+v, %v, want b alone", list, err)
		}
	})
}
