package main

import (
	"os"
	"strings"
	"testing"

	"maunium.net/go/mautrix"
)

// How long, in milliseconds, somebody who was removed from the room and somebody whose tab crashed may still be seen in
// Element Call by the others.
const (
	elementKickWithin  = 1000
	elementCrashWithin = 20_000
)

// TestBrowserElementCall lets three people of two ministries, each a process of its own, meet in Element Call: each sends
// encrypted with an own key through the own ministry's focus, and sees both others; then one is removed from the room, and the
// tab of another crashes. The modes are Element Call's: memberships as state, and as sticky events.
func TestBrowserElementCall(t *testing.T) {
	needBrowser(t, false)
	if _, err := os.Stat("browser/node_modules/@element-hq/element-call-embedded"); err != nil {
		t.Skip("Element Call is not here; `make prepare` installs it")
	}
	for _, mode := range []string{"compatibility", "matrix_2_0"} {
		t.Run(mode, func(t *testing.T) {
			configs := testConfigs(t, func() string { return DefaultConfig().Storage.Database }, "interior.test", "finance.test")
			var people []map[string]any
			for n, names := range [][]string{{"Anna", "Jonas"}, {"Claire"}} {
				newProcess(t, configs[n], "").start()
				for _, name := range names {
					who := callGuest(t, configs[n].Client.PublicURL, name)
					people = append(people, map[string]any{"name": name, "url": configs[n].Client.PublicURL, "user": who.UserID.Localpart(), "password": testPassword(who.UserID.Localpart())})
				}
			}
			runBrowser(t, "elementCall", map[string]any{
				"mode": mode, "people": people, "kickWithin": elementKickWithin, "crashWithin": elementCrashWithin,
			})
		})
	}
}

// callGuest registers somebody with a name that others see.
func callGuest(t *testing.T, url, name string) *mautrix.Client {
	t.Helper()
	who := signIn(t, url, strings.ToLower(name))
	if err := who.SetDisplayName(t.Context(), name); err != nil {
		t.Fatalf("name %s: %v", name, err)
	}
	return who
}
