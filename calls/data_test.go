package calls

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"

	"chancery/calls/signal"
)

// dataClient is a test client with data channels : what it sends on, and what comes.
type dataClient struct {
	*testClient
	reliable, lossy *webrtc.DataChannel
	got             chan *signal.DataPacket
}

func joinData(t *testing.T, base, identity string) *dataClient {
	t.Helper()
	c := &dataClient{testClient: join(t, base, "room", identity), got: make(chan *signal.DataPacket, 4096)}
	open := make(chan string, 4)
	c.sub.OnDataChannel(func(ch *webrtc.DataChannel) {
		ch.OnMessage(func(m webrtc.DataChannelMessage) {
			if p, err := signal.ParseData(m.Data); err == nil {
				c.got <- p
			}
		})
		ch.OnOpen(func() { open <- "from the focus" })
	})
	never, unordered := uint16(0), false
	var err error
	if c.reliable, err = c.pub.CreateDataChannel(reliableLabel, nil); err != nil {
		t.Fatal(err)
	}
	if c.lossy, err = c.pub.CreateDataChannel(lossyLabel, &webrtc.DataChannelInit{Ordered: &unordered, MaxRetransmits: &never}); err != nil {
		t.Fatal(err)
	}
	for _, ch := range []*webrtc.DataChannel{c.reliable, c.lossy} {
		ch.OnOpen(func() { open <- "to the focus" })
	}
	offer, err := c.pub.CreateOffer(nil)
	if err == nil {
		err = c.pub.SetLocalDescription(offer)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.say(offerOf(offer.SDP))
	if err := c.pub.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: <-c.answer}); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		select {
		case <-open:
		case <-time.After(patience):
			t.Fatalf("%s has not all its data channels within %v", identity, patience)
		}
	}
	return c
}

func (c *dataClient) send(ch *webrtc.DataChannel, seq uint32, size int) {
	c.t.Helper()
	raw, err := signal.EncodeData(&signal.DataPacket{Sequence: seq, User: &signal.UserPacket{Payload: make([]byte, size)}})
	if err == nil {
		err = ch.Send(raw)
	}
	if err != nil {
		c.t.Errorf("send data: %v", err)
	}
}

func (c *dataClient) next(what string) *signal.DataPacket {
	c.t.Helper()
	select {
	case p := <-c.got:
		return p
	case <-time.After(patience):
		c.t.Fatalf("no %s within %v", what, patience)
		return nil
	}
}

// reaches sends a lossy packet until it has come: any one of them may be lost.
func (c *dataClient) reaches(hearer *dataClient, seq uint32, size int) *signal.DataPacket {
	c.t.Helper()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for timeout := time.After(patience); ; {
		c.send(c.lossy, seq, size)
		for waits := true; waits; {
			select {
			case p := <-hearer.got:
				if p.Sequence == seq {
					return p
				}
				if p.Sequence > seq {
					c.t.Errorf("got packet %d while %d was awaited", p.Sequence, seq)
				}
			case <-tick.C:
				waits = false
			case <-timeout:
				c.t.Fatalf("no lossy packet of %d bytes within %v", size, patience)
			}
		}
	}
}

func TestDataPacketsAreBounded(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := joinData(t, base, "ann"), joinData(t, base, "bob")
	large, err := signal.EncodeData(&signal.DataPacket{Sequence: 99, User: &signal.UserPacket{Payload: make([]byte, maxData)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []signal.DataPacket_Kind{signal.DataPacket_LOSSY, signal.DataPacket_RELIABLE} {
		ann.session(f).forwardData(kind, large) // as if a client's channel had brought it
	}
	crowd, err := signal.EncodeData(&signal.DataPacket{Sequence: 1, DestinationIdentities: append(make([]string, maxDestinations), "bob")})
	if err == nil {
		err = ann.reliable.Send(crowd)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, speakers := range [][]byte{{0x1a, 0}, {0x80, 0x01, 0x01, 0x1a, 0}} { // alone, and with a number: field 3 of a packet
		if err := ann.reliable.Send(speakers); err != nil {
			t.Fatal(err)
		}
	}
	ann.send(ann.reliable, 1, 40<<10)
	first := bob.next("packet")
	if first.Sequence != 1 || len(first.DestinationIdentities) != 0 || first.ParticipantIdentity != "ann" || first.ParticipantSid != ann.joined.Participant.Sid {
		t.Errorf("got packet %d of %s, want 1 of ann, signed by the focus", first.Sequence, first.ParticipantIdentity)
	}
	for i, size := range []int{1000, 20 << 10, 60_000} { // livekit-client refuses what is more than 64,000 bytes
		if p := ann.reaches(bob, uint32(7+i), size); p.Kind != signal.DataPacket_LOSSY || len(p.User.GetPayload()) != size {
			t.Errorf("got one of kind %v with %d bytes, want the lossy packet of %d", p.Kind, len(p.User.GetPayload()), size)
		}
	}
}

// TestNamesCount: a packet that names many counts for each of them, beside its bytes, and is kept as long as its names find room too.
func TestNamesCount(t *testing.T) {
	room := &Room{}
	ann := &Participant{room: room, sid: "PA_ann", identity: "ann", data: newDataPort(), done: make(chan struct{})}
	ann.data.may.Store(true)
	room.everyone.Store(&[]*Participant{ann})
	ann.data.in.SetLimit(1) // earns nothing while the test runs
	for _, names := range []int{0, 1, maxDestinations} {
		packet := &signal.DataPacket{Sequence: 1}
		for i := range names {
			packet.DestinationIdentities = append(packet.DestinationIdentities, fmt.Sprint(i))
		}
		raw, err := signal.EncodeData(packet)
		if err != nil {
			t.Fatal(err)
		}
		before, kept := ann.data.in.Tokens(), room.words.size
		ann.forwardData(signal.DataPacket_RELIABLE, raw)
		want := len(raw) + packetCost + names*nameCost
		if got := int(before - ann.data.in.Tokens() + 0.5); got != want {
			t.Errorf("%d names: counted %d bytes, want %d", names, got, want)
		}
		if got := room.words.size - kept; got < names*nameCost {
			t.Errorf("%d names: kept as %d bytes, want at least %d", names, got, names*nameCost)
		}
	}
}

// TestDataNeedTheRight takes the right to send data away and gives it back while the channels stand.
func TestDataNeedTheRight(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := joinData(t, base, "ann"), joinData(t, base, "bob")
	p := f.liveRooms()[0].find("ann")
	seq := uint32(0)
	reaches := func(what string, want bool) {
		t.Helper()
		seq++
		ann.send(ann.reliable, seq, 10)
		if want {
			if got := bob.next(what); got.Sequence != seq {
				t.Fatalf("%s: got packet %d, want %d", what, got.Sequence, seq)
			}
			return
		}
		select {
		case got := <-bob.got:
			t.Fatalf("%s: got packet %d, want none", what, got.Sequence)
		case <-time.After(300 * time.Millisecond):
		}
	}
	order := func(permission string) {
		t.Helper()
		body := `{"room":"room","identity":"ann","permission":{"canSubscribe":true,` + permission + `}}`
		if status, text := askService(t, base, "UpdateParticipant", body, Grant{Room: "room", RoomAdmin: true}); status != 200 {
			t.Fatalf("%s: got %d %s", permission, status, text)
		}
	}
	told := func(want bool) {
		t.Helper()
		bob.wait("the word", func(res *signal.Response) bool {
			return slices.ContainsFunc(res.GetUpdate().GetParticipants(), func(info *signal.Participant) bool {
				return info.Identity == "ann" && info.Permission.CanPublishData == want
			})
		})
	}
	reaches("before", true)
	order(`"canPublish":true,"canPublishData":false`)
	told(false)
	reaches("taken away", false)
	order(`"canPublish":false,"canPublishData":true`)
	told(true)
	reaches("given back, without media", true)

	// The call becomes view-only for its members.
	done := make(chan struct{})
	p.do(func() {
		defer close(done)
		p.binding = &Matrix{User: "@ann:interior.test"}
		p.obey(ruling{})
	})
	<-done
	told(false)
	reaches("view-only", false)
	p.do(func() { p.obey(unbound) })
	told(true)
	reaches("no longer view-only", true)
}

func TestWhoMaySendData(t *testing.T) {
	yes, no := true, false
	member, watcher := &Matrix{User: "@ann:interior.test"}, &Matrix{User: "@ann:interior.test", Watch: true}
	for _, c := range []struct {
		name    string
		token   *bool
		granted *bool
		binding *Matrix
		ruling  ruling
		want    bool
	}{
		{"a token that says nothing", nil, nil, nil, unbound, true},
		{"a token that forbids", &no, nil, nil, unbound, false},
		{"a token that forbids, and an administrator who allows", &no, &yes, nil, unbound, true},
		{"an administrator who forbids", &yes, &no, nil, unbound, false},
		{"a member", nil, nil, member, unbound, true},
		{"a member who may only watch", nil, nil, member, ruling{}, false},
		{"one who may only watch, and an administrator who allows", nil, &yes, member, ruling{}, false},
		{"one who publishes elsewhere", nil, nil, watcher, unbound, false},
		{"a member, and an administrator who forbids", nil, &no, member, unbound, false},
	} {
		p := &Participant{claims: &Claims{Video: Grant{CanPublishData: c.token}}, sending: c.granted, binding: c.binding, ruling: c.ruling}
		if got := p.mayData(); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// TestADataFloodWaitsOrIsDropped: lossy packets beyond the rate are dropped, reliable ones come later and in order.
func TestADataFloodWaitsOrIsDropped(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := joinData(t, base, "ann"), joinData(t, base, "bob")
	p := f.liveRooms()[0].find("ann")
	p.data.in.SetBurst(100 << 10) // a flood that a test can afford
	p.data.in.SetLimit(200 << 10)
	begun := time.Now()
	for seq := range uint32(30) {
		ann.send(ann.reliable, seq+1, 10<<10)
	}
	for want := range uint32(30) {
		if got := bob.next("reliable packet").Sequence; got != want+1 {
			t.Fatalf("got packet %d, want %d", got, want+1)
		}
	}
	if took := time.Since(begun); took < 700*time.Millisecond {
		t.Errorf("300 KiB at 200 KiB/s after a burst of 100 took %v", took)
	}
	p.data.in.SetLimit(1)
	for seq := range uint32(30) {
		ann.send(ann.lossy, 100+seq, 10<<10)
	}
	p.data.in.AllowN(time.Now(), 1)
	select {
	case got := <-bob.got:
		t.Errorf("got lossy packet %d beyond the rate, want it dropped", got.Sequence)
	case <-time.After(300 * time.Millisecond):
	}
}

func TestWordsAreToldAgain(t *testing.T) {
	room := &Room{}
	ann, bob, cat := &Participant{sid: "PA_ann", identity: "ann", room: room}, &Participant{sid: "PA_bob", identity: "bob", room: room}, &Participant{sid: "PA_cat", identity: "cat", room: room}
	now := time.Now()
	for i := range uint32(5) {
		room.words.note(word{from: ann, seq: i + 1, raw: []byte("all"), at: now})
	}
	room.words.note(word{from: ann, seq: 6, raw: []byte("bob's"), to: destinationsOf([]string{"bob"}, nil), at: now})
	room.words.note(word{from: bob, seq: 1, raw: []byte("cat's"), to: destinationsOf(nil, []string{"PA_cat"}), at: now})
	for _, c := range []struct {
		name  string
		who   *Participant
		heard map[string]uint32
		since time.Time
		want  string
	}{
		{"some heard", bob, map[string]uint32{"PA_ann": 3}, now.Add(-time.Second), "[4 5 6]"},
		{"nothing heard", cat, nil, now.Add(-time.Second), "[1 2 3 4 5 1]"},
		{"one's own", ann, nil, now.Add(-time.Second), "[]"},
		{"before the join", bob, nil, now.Add(time.Second), "[]"},
		{"all heard", bob, map[string]uint32{"PA_ann": 6}, now.Add(-time.Second), "[]"},
	} {
		got := []uint32{}
		for _, w := range room.words.missed(c.who, c.since, c.heard) {
			got = append(got, w.seq)
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%s: got %v, want %s", c.name, got, c.want)
		}
	}
	room.words.note(word{from: ann, seq: 9, raw: make([]byte, wordsBytes), at: now.Add(time.Second)})
	if n := len(room.words.list); n != 1 {
		t.Errorf("got %d packets kept beyond the bound, want 1", n)
	}
	room.words.note(word{from: ann, seq: 10, raw: []byte("x"), at: now.Add(2 * wordsFor)})
	if n := len(room.words.list); n != 1 {
		t.Errorf("got %d packets kept beyond their time, want 1", n)
	}
}

// TestWhoKeepsNoCountIsToldNothingTwice: a client that resumes and does not say how far it has heard has heard everything on its channel.
func TestWhoKeepsNoCountIsToldNothingTwice(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob := joinData(t, base, "ann"), joinData(t, base, "bob")
	p := f.liveRooms()[0].find("bob")
	synced := func(states ...*signal.DataChannelReceiveState) {
		t.Helper()
		done := make(chan struct{})
		p.do(func() { p.onSyncState(&signal.SyncState{DatachannelReceiveStates: states}); close(done) })
		<-done
	}
	ann.send(ann.reliable, 1, 10)
	bob.next("packet")
	synced()
	ann.send(ann.reliable, 2, 10)
	if got := bob.next("packet").Sequence; got != 2 {
		t.Errorf("got packet %d again, want 2", got)
	}
	synced(&signal.DataChannelReceiveState{PublisherSid: ann.joined.Participant.Sid, LastSeq: 1})
	if got := bob.next("packet").Sequence; got != 2 {
		t.Errorf("after a resume at 1: got packet %d, want 2", got)
	}
}

// TestNothingIsLostWhileAChannelOpens: what a client says as soon as its channel is open reaches the others, and what they said before reaches
// it, also with one connection and while its session is at something else.
func TestNothingIsLostWhileAChannelOpens(t *testing.T) {
	const packets = 20
	f, base := newTestFocus(t)
	bob := joinData(t, base, "bob")
	ann := &dataClient{testClient: joinAs(t, base, "room", "ann", joining{single: true}), got: make(chan *signal.DataPacket, 4096)}
	stands := make(chan struct{})
	first, err := ann.pub.CreateDataChannel("another", nil)
	if err != nil {
		t.Fatal(err)
	}
	first.OnOpen(func() { close(stands) })
	ann.offer()
	within := func(what string, done <-chan struct{}) {
		t.Helper()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatalf("no %s within %v", what, patience)
		}
	}
	within("connection", stands)
	busy, gate := make(chan struct{}), make(chan struct{})
	ann.session(f).do(func() { close(busy); <-gate })
	defer close(gate)
	within("busy session", busy)
	for seq := range uint32(packets) {
		bob.send(bob.reliable, seq+1, 10)
	}
	for end := time.Now().Add(patience); bob.session(f).data.lastReliable() < packets; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("bob's words have not come")
		}
	}
	open := make(chan struct{})
	if ann.reliable, err = ann.pub.CreateDataChannel(reliableLabel, nil); err != nil {
		t.Fatal(err)
	}
	ann.reliable.OnMessage(func(m webrtc.DataChannelMessage) {
		if p, err := signal.ParseData(m.Data); err == nil {
			ann.got <- p
		}
	})
	ann.reliable.OnOpen(func() { close(open) })
	within("channel", open)
	for seq := range uint32(packets) {
		ann.send(ann.reliable, seq+1, 10)
	}
	for want := range uint32(packets) {
		if got := bob.next("packet of ann").Sequence; got != want+1 {
			t.Fatalf("bob got packet %d of ann, want %d", got, want+1)
		}
		if got := ann.next("packet of bob").Sequence; got != want+1 {
			t.Fatalf("ann got packet %d of bob, want %d", got, want+1)
		}
	}
}

// TestServersWordsWaitForAChannel: what the room service says to somebody who has just come is told when its channel is open, in its order, and no
// more is kept for one who never opens any than the newest.
func TestServersWordsWaitForAChannel(t *testing.T) {
	f, base := newTestFocus(t)
	ann := &dataClient{testClient: joinAs(t, base, "room", "ann", joining{single: true}), got: make(chan *signal.DataPacket, 4096)}
	for _, topic := range []string{"first", "second", "third"} {
		body := `{"room":"room","data":"aGk=","kind":"RELIABLE","topic":"` + topic + `"}`
		if status, text := askService(t, base, "SendData", body, Grant{Room: "room", RoomAdmin: true}); status != 200 {
			t.Fatalf("got %d %s", status, text)
		}
	}
	raws := make(chan []byte, 16)
	var err error
	if ann.reliable, err = ann.pub.CreateDataChannel(reliableLabel, nil); err != nil {
		t.Fatal(err)
	}
	ann.reliable.OnMessage(func(m webrtc.DataChannelMessage) { raws <- m.Data })
	ann.offer()
	for _, topic := range []string{"first", "second", "third"} {
		select {
		case raw := <-raws:
			var got signal.SentData
			if err := signal.DecodeBody(raw, false, &got); err != nil || got.User.GetTopic() != topic || string(got.User.GetPayload()) != "hi" {
				t.Errorf("got %v, %v, want %s", &got, err, topic)
			}
		case <-time.After(patience):
			t.Fatalf("the %s has not come within %v", topic, patience)
		}
	}
	never := &join(t, base, "room", "bob").session(f).data
	for _, size := range []int{1, maxData} {
		for range 2 * earlyMost {
			never.send(signal.DataPacket_RELIABLE, &word{raw: make([]byte, size)})
		}
		never.send(signal.DataPacket_RELIABLE, &word{raw: []byte("last")})
		never.mu.Lock()
		sum := 0
		for _, raw := range never.early {
			sum += len(raw)
		}
		if n := len(never.early); n == 0 || n > earlyMost || sum > earlyBytes || string(never.early[n-1]) != "last" {
			t.Errorf("got %d packets and %d bytes kept, want at most %d and %d, the newest last", n, sum, earlyMost, earlyBytes)
		}
		never.mu.Unlock()
	}
}

// TestASlowHearerCatchesUp: who could not take reliable packets for a while gets them all the same, each in its place.
func TestASlowHearerCatchesUp(t *testing.T) {
	const packets = 130 // of which a third fit into Pion's window, and a half wait with the focus
	f, base := newTestFocus(t)
	ann, bob := joinData(t, base, "ann"), &dataClient{testClient: join(t, base, "room", "bob"), got: make(chan *signal.DataPacket, 4096)}
	gate, open := make(chan struct{}), make(chan struct{})
	bob.sub.OnDataChannel(func(ch *webrtc.DataChannel) {
		ch.OnMessage(func(m webrtc.DataChannelMessage) {
			<-gate // reads nothing
			if p, err := signal.ParseData(m.Data); err == nil {
				bob.got <- p
			}
		})
		if ch.Label() == reliableLabel {
			ch.OnOpen(func() { close(open) })
		}
	})
	<-open
	f.liveRooms()[0].find("ann").data.in.SetBurst(64 << 20)
	for seq := range uint32(packets) {
		ann.send(ann.reliable, seq+1, 32<<10)
	}
	p := f.liveRooms()[0].find("bob")
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		p.data.mu.Lock()
		behind := len(p.data.behind)
		p.data.mu.Unlock()
		if behind > 0 && f.liveRooms()[0].find("ann").data.lastReliable() == packets {
			break
		}
		if time.Now().After(end) {
			t.Fatal("bob has not fallen behind")
		}
	}
	close(gate)
	for want := range uint32(packets) {
		if got := bob.next("packet").Sequence; got != want+1 {
			t.Fatalf("got packet %d, want %d", got, want+1)
		}
	}
	ann.send(ann.reliable, packets+1, 10)
	if got := bob.next("packet").Sequence; got != packets+1 {
		t.Errorf("got packet %d, want %d", got, packets+1)
	}
}

func TestASlowHearerIsDroppedFirst(t *testing.T) {
	f, base := newTestFocus(t)
	ann, bob, cat := joinData(t, base, "ann"), joinData(t, base, "bob"), joinData(t, base, "cat")
	_ = cat.sub.Close() // hears nothing more, and says nothing of it
	for seq := range uint32(50) {
		ann.send(ann.reliable, seq+1, 32<<10)
	}
	for want := range uint32(50) {
		if got := bob.next("packet").Sequence; got != want+1 {
			t.Fatalf("got packet %d, want %d", got, want+1)
		}
	}
	if p := f.liveRooms()[0].find("cat"); p != nil {
		p.data.mu.Lock()
		c := p.data.reliable // nil: it did not open before cat fell silent
		p.data.mu.Unlock()
		if c == nil {
			return
		}
		if held := c.BufferedAmount(); held > reliableBuffer+maxData {
			t.Errorf("got %d bytes waiting for a slow hearer, want at most %d", held, reliableBuffer)
		}
	}
}
