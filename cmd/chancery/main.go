// Command chancery is a Matrix homeserver with a call focus inside.
//
// This package assembles the components and owns nothing else: the configuration they are given (config.go), who is
// handed what (components.go), the order in which they start and stop (serve.go), and the subcommands around them.
// Components never learn whether they run in one process or in several; that is decided here alone.
package main

func main() {}
