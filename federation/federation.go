// Package federation is the door for other servers: it checks who asks, serves the routes, and holds both directions of each
// question that one server puts to another. Its sub-packages speak outwards (remote), take transactions in (receiver), send them
// out (sender) and carry memberships across servers (membership).
//
// What a reader must not break:
//   - nobody is believed before auth.go has checked the signature over method, path, destination and body;
//   - a server learns nothing of a room that it is not in, or that its ACL keeps it out of: see access.go;
//   - rooms are written by the room server alone: federation asks it over the bus, and stores only what nobody has adopted yet.
//
// The components in other processes reach other servers by asking federation.do (ask.go), and in no other way.
package federation
