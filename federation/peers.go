package federation

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"chancery/federation/remote"
	"chancery/storage/bus"
)

// The bounds of one answer about peers.
const (
	maxPeersTold  = 100
	maxPeersKnown = 50_000
)

// peers tells operators how it stands with other servers: all that share a room with us, or that anything was said to or heard of.
func (f *Federation) peers(ctx context.Context, q *bus.Peers) (json.RawMessage, error) {
	asked, counted, sent := f.remote.Peers(), f.receiver.Tallies(), f.sender.Destinations()
	waiting, err := f.store.Outbound.Counts(ctx)
	if err != nil {
		return nil, err
	}
	sharing, err := f.store.Rooms.AllServers(ctx, maxPeersKnown)
	if err != nil {
		return nil, err
	}
	names := make(map[string]bool, len(sharing))
	for _, server := range sharing {
		names[server] = true
	}
	for _, more := range []func(func(string) bool){maps.Keys(asked), maps.Keys(counted), maps.Keys(sent), maps.Keys(waiting)} {
		for server := range more {
			names[server] = true
		}
	}
	delete(names, f.name)
	list := bus.PeerList{Peers: []bus.Peer{}, Total: len(names)}
	limit := q.Limit
	if limit <= 0 || limit > maxPeersTold {
		limit = maxPeersTold
	}
	for _, server := range slices.Sorted(maps.Keys(names)) {
		if q.Server != "" && server != q.Server || server <= q.After && q.After != "" {
			continue
		}
		if len(list.Peers) == limit {
			list.Next = list.Peers[limit-1].Server
			break
		}
		p := bus.Peer{Server: server, Allowed: f.remote.Allows(server), Queue: waiting[server]}
		reached(&p, asked[server])
		t, d := counted[server], sent[server]
		p.Heard = milli(t.Heard)
		p.Accepted, p.SoftFailed, p.Rejected, p.Dropped, p.Reasons = t.Accepted, t.SoftFailed, t.Rejected, t.Dropped, t.Reasons
		p.Queue += d.Queue
		p.Lagging, p.Failures, p.RetryAt = d.Lagging, d.Failures, milli(d.RetryAt)
		if d.Failures > 0 && d.Cause != "" {
			p.Failure = d.Cause
		}
		p.Reachable = p.Reachable && d.Failures == 0
		list.Peers = append(list.Peers, p)
	}
	return json.Marshal(list)
}

// reached tells what came of asking the server.
func reached(p *bus.Peer, peer remote.Peer) {
	p.Tried = !peer.Answered.IsZero() || !peer.Failed.IsZero()
	p.Reachable = peer.Answered.After(peer.Failed)
	p.Answered, p.Failed = milli(peer.Answered), milli(peer.Failed)
	if !p.Reachable {
		p.Failure = peer.Failure
	}
	if peer.HasSkew {
		skew := peer.Skew.Milliseconds()
		p.Skew = &skew
	}
	p.Certificate = milli(peer.Certificate)
}

func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
