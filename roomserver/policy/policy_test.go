package policy_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"chancery/roomserver/policy"
)

func TestAddresses(t *testing.T) {
	closed, err := policy.NewAddresses(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	loopback, err := policy.NewAddresses([]string{"127.0.0.0/8", "::1"}, []string{"127.0.0.9"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		addr             string
		closed, loopback bool
	}{
		{"8.8.8.8", true, true},
		{"2606:4700::1111", true, true},
		{"127.0.0.1", false, true},
		{"127.0.0.9", false, false},
		{"::1", false, true},
		{"::ffff:127.0.0.1", false, true},
		{"10.1.2.3", false, false},
		{"169.254.169.254", false, false},
		{"100.64.0.1", false, false},
		{"0.0.0.0", false, false},
		{"255.255.255.255", false, false},
		{"224.0.0.1", false, false},
		{"fe80::1", false, false},
		{"fd00::1", false, false},
		{"64:ff9b::7f00:1", false, false},
		{"64:ff9b:1::a00:1", false, false},
		{"64:ff9b:2::1", true, true},
		{"::a00:1", false, false},
		{"::ffff:0:a00:1", false, false},
		{"100::1", false, false},
		{"2001:0:a00:1::1", false, false},
		{"2001:1::1", true, true},
		{"2002:a00:1::1", false, false},
	} {
		addr := netip.MustParseAddr(c.addr)
		if got := closed.Allows(addr); got != c.closed {
			t.Errorf("default: %s: got %v, want %v", c.addr, got, c.closed)
		}
		if got := loopback.Allows(addr); got != c.loopback {
			t.Errorf("loopback allowed: %s: got %v, want %v", c.addr, got, c.loopback)
		}
	}
	mapped, err := policy.NewAddresses([]string{"::ffff:127.0.0.0/104", "::ffff:10.1.2.3"}, []string{"::ffff:8.8.8.0/120"})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{"127.0.0.1": true, "10.1.2.3": true, "10.1.2.4": false, "8.8.8.8": false, "8.8.9.9": true} {
		if got := mapped.Allows(netip.MustParseAddr(addr)); got != want {
			t.Errorf("networks written as IPv6: %s: got %v, want %v", addr, got, want)
		}
	}
	if _, err := policy.NewAddresses([]string{"no network"}, nil); err == nil {
		t.Error("a malformed network was taken without an error")
	}
}

func TestServers(t *testing.T) {
	var open policy.Servers
	if !open.Allows("anyone.example") {
		t.Error("open federation: got a refusal, want none")
	}
	s := policy.NewServers([]string{"interior.gouv.example", "*.agents.example"})
	for name, want := range map[string]bool{
		"interior.gouv.example":      true,
		"INTERIOR.gouv.example":      true,
		"interior.gouv.example:8448": false,
		"a.agents.example":           true,
		"agents.example":             false,
		"evilagents.example":         false,
		"other.example":              false,
	} {
		if got := s.Allows(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

func TestACL(t *testing.T) {
	for _, c := range []struct {
		name, content, server string
		want                  bool
	}{
		{"allow all", `{"allow":["*"]}`, "a.example", true},
		{"empty allows nobody", `{}`, "a.example", false},
		{"no object allows nobody", `[]`, "a.example", false},
		{"deny wins", `{"allow":["*"],"deny":["*.evil.example"]}`, "x.evil.example", false},
		{"port is ignored", `{"allow":["*"],"deny":["evil.example"]}`, "evil.example:8448", false},
		{"case is ignored", `{"allow":["*"],"deny":["EVIL.example"]}`, "evil.EXAMPLE", false},
		{"literal refused", `{"allow":["*"],"allow_ip_literals":false}`, "1.2.3.4", false},
		{"literal with port refused", `{"allow":["*"],"allow_ip_literals":false}`, "1.2.3.4:8448", false},
		{"IPv6 literal refused", `{"allow":["*"],"allow_ip_literals":false}`, "[::1]:8448", false},
		{"literal allowed by default", `{"allow":["*"]}`, "[::1]", true},
		{"literals of a wrong type count as allowed", `{"allow":["*"],"allow_ip_literals":"no"}`, "1.2.3.4", true},
		{"question mark is one character", `{"allow":["a?.example"]}`, "ab.example", true},
		{"question mark is not none", `{"allow":["a?.example"]}`, "a.example", false},
		{"entries of a wrong type are passed over", `{"allow":[1,null,"a.example"]}`, "a.example", true},
	} {
		if got := policy.ParseACL([]byte(c.content)).Allows(c.server); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	var none *policy.ACL
	if !none.Allows("a.example") {
		t.Error("no ACL: got a refusal, want none")
	}
}

func TestGlobIsBounded(t *testing.T) {
	pattern := strings.Repeat("*a", 200)
	text := strings.Repeat("a", 255) + "b"
	start := time.Now()
	if policy.Glob(pattern, text) {
		t.Error("matched, want no match")
	}
	if took := time.Since(start); took > 50*time.Millisecond {
		t.Errorf("took %v, want far less", took)
	}
}

func FuzzACL(f *testing.F) {
	f.Add([]byte(`{"allow":["*"],"deny":["a?b*"]}`), "a.example:1")
	f.Fuzz(func(t *testing.T, content []byte, server string) {
		policy.ParseACL(content).Allows(server)
	})
}
