package calls

import (
	"cmp"
	"maps"
	"time"

	"chancery/calls/signal"
)

// handle does what the client asks for: one function for each message.
func (p *Participant) handle(req *signal.Request) {
	switch m := req.Message.(type) {
	case *signal.Request_Offer:
		p.onOffer(m.Offer)
	case *signal.Request_Answer:
		p.onAnswer(m.Answer)
	case *signal.Request_Trickle:
		p.onTrickle(m.Trickle)
	case *signal.Request_AddTrack:
		p.onAddTrack(m.AddTrack)
	case *signal.Request_Mute:
		p.onMute(m.Mute)
	case *signal.Request_Subscription:
		p.onSubscription(m.Subscription)
	case *signal.Request_TrackSetting:
		p.onTrackSetting(m.TrackSetting)
	case *signal.Request_Leave:
		p.stop(ending{reason: signal.DisconnectReason_CLIENT_INITIATED, silent: true})
	case *signal.Request_SubscriptionPermission:
		p.onSubscriptionPermission(m.SubscriptionPermission)
	case *signal.Request_SyncState:
		p.onSyncState(m.SyncState)
	case *signal.Request_Simulate:
		p.onSimulate(m.Simulate)
	case *signal.Request_Ping:
		p.send(&signal.Response{Message: &signal.Response_Pong{Pong: time.Now().UnixMilli()}})
	case *signal.Request_PingReq:
		p.send(&signal.Response{Message: &signal.Response_PongResp{PongResp: &signal.Pong{
			LastPingTimestamp: m.PingReq.Timestamp, Timestamp: time.Now().UnixMilli(),
		}}})
	case *signal.Request_UpdateMetadata:
		p.onUpdateMetadata(m.UpdateMetadata)
	case *signal.Request_UpdateAudioTrack:
		if t := p.published[m.UpdateAudioTrack.TrackSid]; t != nil && len(m.UpdateAudioTrack.Features) <= maxTrackFeatures {
			t.info.AudioFeatures = m.UpdateAudioTrack.Features
			p.changed()
		}
	case *signal.Request_UpdateVideoTrack:
		if t := p.published[m.UpdateVideoTrack.TrackSid]; t != nil {
			t.info.Width, t.info.Height = m.UpdateVideoTrack.Width, m.UpdateVideoTrack.Height
			p.changed()
		}
	case *signal.Request_PublishDataTrack: // the client would wait ten seconds for an answer (livekit-client 2.23.0)
		p.send(&signal.Response{Message: &signal.Response_RequestResponse{RequestResponse: &signal.RequestResponse{
			Reason: signal.RequestResponse_UNSUPPORTED_TYPE, Message: "there are no data tracks here",
			Request: &signal.RequestResponse_PublishDataTrack{PublishDataTrack: &signal.PublishDataTrack{PubHandle: m.PublishDataTrack.PubHandle}},
		}}})
	}
}

const (
	maxMetadata   = 64 << 10
	maxAttributes = 64
)

// withinBounds says whether a participant may say so much of itself: it goes to all others.
func withinBounds(name, metadata string, attributes map[string]string) bool {
	size := len(name) + len(metadata)
	for k, v := range attributes {
		size += len(k) + len(v)
	}
	return size <= maxMetadata && len(attributes) <= maxAttributes
}

// onUpdateMetadata changes name, metadata and attributes; an empty attribute deletes. The client waits for the answer.
func (p *Participant) onUpdateMetadata(m *signal.UpdateMetadata) {
	reason := signal.RequestResponse_OK
	next := maps.Clone(p.info.Attributes)
	if next == nil {
		next = map[string]string{}
	}
	for k, v := range m.Attributes {
		if v == "" {
			delete(next, k)
		} else {
			next[k] = v
		}
	}
	name, metadata := cmp.Or(m.Name, p.info.Name), cmp.Or(m.Metadata, p.info.Metadata)
	switch {
	case !p.info.Permission.CanUpdateMetadata:
		reason = signal.RequestResponse_NOT_ALLOWED
	case !withinBounds(name, metadata, next):
		reason = signal.RequestResponse_LIMIT_EXCEEDED
	default:
		p.info.Name, p.info.Metadata, p.info.Attributes, p.untold = name, metadata, next, true
		p.changed()
	}
	p.send(&signal.Response{Message: &signal.Response_RequestResponse{RequestResponse: &signal.RequestResponse{
		RequestId: m.RequestId, Reason: reason, Request: &signal.RequestResponse_UpdateMetadata{UpdateMetadata: m},
	}}})
}
