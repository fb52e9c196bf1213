package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"chancery/clientapi"
)

const roomUsage = `chancery room [flags] list [TEXT]         list rooms in whose name, alias or ID the text stands
chancery room [flags] delete ROOM         have our users leave it, and remove it from this server for ever

ROOM is a room ID or one of its aliases here. Flags stand before the verb.

`

// roomCommand keeps rooms: at the admin listener of the running server, or in the database when none runs.
func roomCommand(ctx context.Context, args []string) error {
	var wish accountWish
	flags := flag.NewFlagSet("room", flag.ContinueOnError)
	path := configFlag(flags)
	flags.BoolVar(&wish.Open, "open", false, "delete: let our users join the room again; it is blocked otherwise")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), roomUsage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	verb := flags.Arg(0)
	wish.Name = flags.Arg(1)
	switch {
	case verb == "list" && flags.NArg() <= 2:
		wish.Do = "rooms"
	case verb == "delete" && flags.NArg() == 2:
		wish.Do = "delete-room"
	default:
		flags.Usage()
		return errors.New("want: room [flags] list, or delete ROOM")
	}
	config, err := readConfig(*path)
	if err != nil {
		return err
	}
	return fulfil(ctx, config, wish)
}

// steward does what both subcommands wish of the administrators' chapter.
func steward(ctx context.Context, client *clientapi.Server, wish accountWish) (string, error) {
	admin := client.Admin()
	switch wish.Do {
	case "list":
		return admin.ListAccounts(ctx, wish.Name)
	case "admin":
		user, err := admin.MakeAdministrator(ctx, wish.Name, wish.Admin)
		return user.String(), err
	case "deactivate":
		user, err := admin.CloseAccount(ctx, wish.Name, wish.Erase)
		return user.String(), err
	case "renew":
		var until time.Time
		if wish.Until > 0 {
			until = time.UnixMilli(wish.Until)
		}
		return admin.RenewAccount(ctx, wish.Name, until)
	case "tokens":
		return admin.ListTokens(ctx)
	case "revoke":
		return wish.Name, admin.RevokeToken(ctx, wish.Name)
	case "rooms":
		return admin.ListRooms(ctx, wish.Name)
	case "delete-room":
		return admin.RemoveRoom(ctx, wish.Name, !wish.Open)
	}
	return "", fmt.Errorf("accounts and rooms: there is no verb %q", wish.Do)
}
