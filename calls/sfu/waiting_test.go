package sfu

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/pion/transport/v4/packetio"
)

// unowned is a stream that no track owns yet.
func unowned(in *incoming, ssrc uint32) *rtpStream {
	return in.buffer(packetio.RTPBufferPacket, ssrc).(*rtpStream)
}

// fill lets packets wait until there is no room, and gives how many bytes they are.
func fill(t *testing.T, s *rtpStream, now time.Time) (bytes int) {
	t.Helper()
	b := make([]byte, 1200)
	for {
		n, err := s.wait(b, now)
		if bytes += n; errors.Is(err, packetio.ErrFull) {
			return bytes
		}
		if err != nil || n != len(b) || bytes > peerWaits {
			t.Fatalf("got %d bytes, %v, after %d bytes", n, err, bytes)
		}
	}
}

// TestStreamsThatNobodyOwns: what a peer sends under thousands of names takes the room of a few, and takes it from nobody but for a moment.
func TestStreamsThatNobodyOwns(t *testing.T) {
	in, now, bytes := newIncoming(), time.Now(), 0
	for ssrc := range uint32(maxSent / 2) {
		bytes += fill(t, unowned(in, ssrc), now)
	}
	if bytes > peerWaits || bytes < peerWaits*9/10 {
		t.Errorf("got %d bytes that wait, want not quite %d", bytes, peerWaits)
	}
	first := in.stream(0)
	if got := fill(t, first, now); got != 0 {
		t.Errorf("got %d bytes more, want none", got)
	}

	// What is read gives its room to others, and so does what ends.
	b, read := make([]byte, receiveMTU), 0
	for range 10 {
		n, err := first.Read(b)
		if read += n; err != nil {
			t.Fatal(err)
		}
	}
	late := unowned(in, 2000)
	if got := fill(t, late, now); got < read-1200 || got > read {
		t.Errorf("got room for %d bytes, want the %d that were read", got, read)
	}
	must(t, in.stream(1).Close())
	if got := fill(t, late, now); got < streamWaits*8/10 {
		t.Errorf("got room for %d bytes, want as much as a stream that ended had", got)
	}
	if _, err := first.Read(make([]byte, 100)); !errors.Is(err, io.ErrShortBuffer) {
		t.Errorf("read into too little: got %v", err)
	}

	// What has waited in vain goes when a new track needs the room.
	later := now.Add(waitsFor + time.Second)
	if got := fill(t, unowned(in, 2001), later); got < streamWaits*8/10 {
		t.Errorf("a new stream, later: got room for %d bytes, want all of a stream's", got)
	}
	if got := in.stream(5).waiting.bytes; got != 0 {
		t.Errorf("got %d bytes that waited in vain", got)
	}

	// An owner takes nothing from the room, and all of it is free when all has ended.
	s := newStage(t, 1)
	owned := unowned(in, 3000)
	owned.give(s.layers[0], false)
	before := in.waits.Load()
	for range 1000 {
		if _, err := owned.Write(make([]byte, 1200)); err != nil {
			t.Fatal(err)
		}
	}
	if got := in.waits.Load(); got != before {
		t.Errorf("got %d bytes that wait for an owner who is there", got-before)
	}
	for ssrc := range uint32(3001) {
		if s := in.stream(ssrc); s != nil {
			must(t, s.Close())
		}
	}
	if got := in.waits.Load(); got != 0 {
		t.Errorf("got %d bytes that wait at the end, want none", got)
	}
	if n, err := late.Read(b); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read after the end: got %d, %v, want its end", n, err)
	}
	if _, err := late.Write(b); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("written after the end: got %v", err)
	}
}

// Who reads before there is anything hears of what comes, and of the end.
func TestReadingWaits(t *testing.T) {
	in := newIncoming()
	s := unowned(in, 1)
	read := make(chan error)
	b := make([]byte, receiveMTU)
	take := func() {
		n, err := s.Read(b)
		if err == nil && n != 3 {
			err = errors.New("not the packet")
		}
		read <- err
	}
	go take()
	if _, err := s.wait([]byte{1, 2, 3}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	go take()
	must(t, s.Close())
	if err := <-read; !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end", err)
	}
	must(t, s.Close())
}
