package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// clerk is the demo's bot: it answers who speaks to it, and tells how long a message was under way.
type clerk struct {
	client *mautrix.Client
	room   id.RoomID
	now    func() time.Time
}

// serveClerk answers until ctx ends.
func serveClerk(ctx context.Context, client *mautrix.Client, room id.RoomID) error {
	c := &clerk{client: client, room: room, now: time.Now}
	syncer := mautrix.NewDefaultSyncer()
	syncer.OnSync(client.DontProcessOldEvents)
	syncer.OnEventType(event.EventMessage, c.hear)
	client.Syncer = syncer
	client.Store = mautrix.NewMemorySyncStore()
	for ctx.Err() == nil {
		if err := client.SyncWithContext(ctx); err != nil && ctx.Err() == nil {
			client.Log.Debug().Err(err).Msg("The clerk's sync was interrupted")
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

// hear answers a message that is meant for the bot.
func (c *clerk) hear(ctx context.Context, ev *event.Event) {
	content := ev.Content.AsMessage()
	if ev.RoomID != c.room || ev.Sender == c.client.UserID || content.MsgType == event.MsgNotice {
		return
	}
	answer := c.answer(ev.Sender, content.Body, c.now().Sub(time.UnixMilli(ev.Timestamp)))
	if answer == "" {
		return
	}
	// Failing to answer harms nobody: the next question comes.
	_ = c.client.MarkRead(ctx, ev.RoomID, ev.ID)
	if _, err := c.client.SendNotice(ctx, ev.RoomID, answer); err != nil {
		c.client.Log.Debug().Err(err).Msg("The clerk could not answer")
	}
}

// answer finds words for what was said; none for what is not addressed to the clerk.
func (c *clerk) answer(sender id.UserID, body string, under time.Duration) string {
	words := strings.ToLower(strings.TrimSpace(body))
	if !strings.Contains(words, "clerk") {
		return ""
	}
	has := func(any ...string) bool {
		for _, word := range any {
			if strings.Contains(words, word) {
				return true
			}
		}
		return false
	}
	switch {
	case has("help", "what can"):
		return "Ask me for the “time”, “where” you are heard, or “ping” me to see how fast a message travels."
	case has("ping", "fast", "quick"):
		return fmt.Sprintf("Your message took %d ms from your press of the key to this bot at Finance.", max(under.Milliseconds(), 1))
	case has("time", "clock"):
		return "It is " + c.now().Format("15:04:05") + " at Finance."
	case has("where", "who"):
		if sender.Homeserver() == c.client.UserID.Homeserver() {
			return "You and I are both at " + sender.Homeserver() + ". Interior holds a copy of this room, and checks each of our signatures."
		}
		return fmt.Sprintf("You are at %s, I am at %s. Your server signed that message, mine checked it.", sender.Homeserver(), c.client.UserID.Homeserver())
	case has("thank"):
		return "At your service."
	default:
		return "Noted. Write “clerk, help” for what I can do."
	}
}
