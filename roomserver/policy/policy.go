// Package policy says what this server allows, apart from the event authorisation rules: which servers it speaks with, which
// network addresses it connects to, what a room's server ACL means.
//
// Everything here is a pure function of facts handed in: no network, no storage, no clock, no logging. Both doors, the room
// server and the call focus may ask it, so that one question has one answer in the whole house.
package policy
