package policy

import (
	"fmt"
	"net/netip"
)

// Addresses decides which network addresses the server may connect to on behalf of others: federation, media, previews,
// gateways. It is asked after the name is resolved, for each connection. The zero value refuses everything that is not a
// public unicast address.
type Addresses struct {
	allowed []netip.Prefix
	denied  []netip.Prefix
}

// NewAddresses takes networks in CIDR form, or single addresses. Denied networks win over allowed ones; what is in neither is
// allowed if it is a public unicast address.
func NewAddresses(allowed, denied []string) (Addresses, error) {
	var a Addresses
	var err error
	if a.allowed, err = prefixes(allowed); err != nil {
		return a, err
	}
	a.denied, err = prefixes(denied)
	return a, err
}

func prefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			if addr, bits := p.Addr(), p.Bits()-96; addr.Is4In6() && bits >= 0 { // as addresses are compared
				p = netip.PrefixFrom(addr.Unmap(), bits)
			}
			out = append(out, p.Masked())
			continue
		}
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("network %q is neither an address nor a CIDR range", s)
		}
		out = append(out, netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()))
	}
	return out, nil
}

// special lists what netip's own tests do not name: ranges that are unicast on paper and never a public host.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),   // carrier-grade NAT
	netip.MustParsePrefix("192.0.0.0/24"),    // protocol assignments
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation
	netip.MustParsePrefix("192.88.99.0/24"),  // 6to4 relays
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"), // documentation
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved, broadcast
	netip.MustParsePrefix("::/96"),           // IPv4-compatible: an IPv4 address in disguise
	netip.MustParsePrefix("::ffff:0:0:0/96"), // IPv4-translated: likewise
	netip.MustParsePrefix("64:ff9b::/96"),    // NAT64: likewise
	netip.MustParsePrefix("64:ff9b:1::/48"),  // NAT64 of a network's own: likewise
	netip.MustParsePrefix("100::/64"),        // discarded
	netip.MustParsePrefix("2001::/32"),       // Teredo: an IPv4 address in disguise
	netip.MustParsePrefix("2001:db8::/32"),   // documentation
	netip.MustParsePrefix("2002::/16"),       // 6to4: an IPv4 address in disguise
	netip.MustParsePrefix("fec0::/10"),       // site local
}

// Allows says whether a connection to the address may be opened.
func (a Addresses) Allows(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() || contains(a.denied, addr) {
		return false
	}
	if contains(a.allowed, addr) {
		return true
	}
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !contains(special, addr)
}

func contains(list []netip.Prefix, addr netip.Addr) bool {
	for _, p := range list {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
