// Command chancery is a Matrix homeserver with a call focus inside.
package main

func main() {}
