package signal

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"
)

// FrameBytes is the largest message that a client may send, unless Take allows more.
const FrameBytes = 512 << 10

// Limits bounds what one socket may cost.
type Limits struct {
	FrameBytes  int           // largest incoming message at first; default FrameBytes
	Queue       int           // messages waiting to be written before the socket counts as dead; default 4096
	QueueBytes  int           // the same in bytes, though one message may always wait; default 32 MiB
	WriteWait   time.Duration // longest time for one write; default 10 s
	PingEvery   time.Duration // a WebSocket ping after this; default 10 s
	SilentAfter time.Duration // nothing heard for so long closes the socket; default 30 s
}

func (l Limits) withDefaults() Limits {
	if l.FrameBytes == 0 {
		l.FrameBytes = FrameBytes
	}
	if l.Queue == 0 {
		l.Queue = 4096
	}
	if l.QueueBytes == 0 {
		l.QueueBytes = 32 << 20
	}
	if l.WriteWait == 0 {
		l.WriteWait = 10 * time.Second
	}
	if l.PingEvery == 0 {
		l.PingEvery = 10 * time.Second
	}
	if l.SilentAfter == 0 {
		l.SilentAfter = 30 * time.Second
	}
	return l
}

// firstPing is when the first ping is sent, so that the line's length is known early.
const firstPing = time.Second

// ErrNotBinary is returned by Read for text frames, which we do not speak.
var ErrNotBinary = errors.New("signal: text frame")

// Conn is one signalling socket. Send and Close may be called from anywhere; Read by one goroutine.
type Conn struct {
	ws     *websocket.Conn
	limits Limits
	woken  chan struct{} // something waits
	done   chan struct{} // closed when nothing more can be sent
	once   sync.Once
	ends   time.Time    // when writing ends too; written before done is closed
	trip   atomic.Int64 // nanoseconds there and back, as the last ping took; 0: none has come back
	most   atomic.Int64 // bytes of a message

	mu    sync.Mutex // guards what follows
	out   [][]byte   // waits to be written
	bytes int        // of out
}

var upgrader = websocket.Upgrader{
	ReadBufferSize:  4 << 10,
	WriteBufferSize: 4 << 10,
	WriteBufferPool: &sync.Pool{},
	// The token in the query is the proof; pages of any origin may hold one.
	CheckOrigin: func(*http.Request) bool { return true },
}

// Asks says whether a request asks for a socket.
func Asks(r *http.Request) bool { return websocket.IsWebSocketUpgrade(r) }

// Accept upgrades the request. On error the answer has been written already.
func Accept(w http.ResponseWriter, r *http.Request, limits Limits) (*Conn, error) {
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, fmt.Errorf("upgrade signalling socket: %w", err)
	}
	c := &Conn{ws: ws, limits: limits.withDefaults(), woken: make(chan struct{}, 1), done: make(chan struct{})}
	c.most.Store(int64(c.limits.FrameBytes))
	ws.SetPongHandler(func(said string) error {
		if sent, err := strconv.ParseInt(said, 36, 64); err == nil {
			c.trip.Store(max(1, time.Now().UnixNano()-sent))
		}
		return c.heard()
	})
	if err := c.heard(); err != nil {
		ws.Close()
		return nil, err
	}
	go c.write()
	return c, nil
}

// RoundTrip is how long the client took to answer the last ping, as it says; 0 before it has answered one.
func (c *Conn) RoundTrip() time.Duration { return time.Duration(c.trip.Load()) }

func (c *Conn) heard() error {
	return c.ws.SetReadDeadline(time.Now().Add(c.limits.SilentAfter))
}

// Take says how large the messages may be that begin from now on.
func (c *Conn) Take(most int) { c.most.Store(int64(most)) }

// message reads one, in as many frames as the client likes.
func (c *Conn) message() (kind int, raw []byte, err error) {
	kind, from, err := c.ws.NextReader()
	if err != nil {
		return 0, nil, err
	}
	most := c.most.Load()
	if raw, err = io.ReadAll(io.LimitReader(from, most+1)); err != nil {
		return 0, nil, err
	}
	if int64(len(raw)) > most {
		return 0, nil, websocket.ErrReadLimit
	}
	return kind, raw, nil
}

// Read blocks for the next request. After an error the socket is of no more use.
func (c *Conn) Read() (*Request, error) {
	kind, frame, err := c.message()
	if err != nil {
		return nil, err
	}
	if err := c.heard(); err != nil {
		return nil, err
	}
	if kind != websocket.BinaryMessage {
		return nil, ErrNotBinary
	}
	return ParseRequest(frame)
}

// Ending is how a socket came to its end, as far as Read's error tells.
type Ending int

const (
	// Lost: nothing was heard; the line is dead, or we closed it ourselves.
	Lost Ending = iota
	// Closed: the client said goodbye, as it does before it opens another.
	Closed
	// Broken: the connection was closed without a word, by the client's machine or by something on the way.
	Broken
	// Away: the client says that its page goes away.
	Away
)

// EndingOf reads an error of Read.
func EndingOf(err error) Ending {
	var said *websocket.CloseError
	switch {
	case errors.As(err, &said) && said.Code == websocket.CloseGoingAway:
		return Away
	case errors.As(err, &said) && said.Code != websocket.CloseAbnormalClosure:
		return Closed
	case errors.As(err, &said), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		return Broken
	}
	return Lost
}

// ParseRequest reads one frame of a client.
func ParseRequest(frame []byte) (*Request, error) {
	var req Request
	if err := proto.Unmarshal(frame, &req); err != nil {
		return nil, fmt.Errorf("signal: parse request: %w", err)
	}
	return &req, nil
}

// Send queues a message. It is false, and the socket closed, when the client does not keep up.
func (c *Conn) Send(res *Response) bool {
	frame, err := proto.Marshal(res)
	if err != nil {
		c.Close()
		return false
	}
	return c.SendFrame(frame)
}

// SendFrame is Send for a message that is encoded already. The frame is not changed, and may go to others too. An empty one says
// nothing, and is not sent.
func (c *Conn) SendFrame(frame []byte) bool {
	if len(frame) == 0 {
		return true
	}
	select {
	case <-c.done:
		return false
	default:
	}
	if !c.queue(frame) {
		c.Close()
		return false
	}
	select {
	case c.woken <- struct{}{}:
	default:
	}
	return true
}

// queue lets a frame wait, if there is room.
func (c *Conn) queue(frame []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.out); n >= c.limits.Queue || n > 0 && c.bytes+len(frame) > c.limits.QueueBytes {
		return false
	}
	c.out = append(c.out, frame)
	c.bytes += len(frame)
	return true
}

// next takes the frame that has waited longest; nil: none waits.
func (c *Conn) next() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.out) == 0 {
		c.out = nil
		return nil
	}
	frame := c.out[0]
	c.out[0] = nil
	c.out = c.out[1:]
	c.bytes -= len(frame)
	return frame
}

// writeQueued writes what waits. It is false if the socket does not take it.
func (c *Conn) writeQueued() bool {
	for frame := c.next(); frame != nil; frame = c.next() {
		if c.writeFrame(frame) != nil {
			return false
		}
	}
	return true
}

// Close ends the socket after what is queued has been written, for at most one write's time in all.
func (c *Conn) Close() {
	c.once.Do(func() {
		c.ends = time.Now().Add(c.limits.WriteWait)
		close(c.done)
	})
}

func (c *Conn) write() {
	ping := time.NewTimer(min(firstPing, c.limits.PingEvery))
	defer func() {
		ping.Stop()
		c.Close()
		c.ws.Close()
	}()
	for {
		select {
		case <-c.woken:
			if !c.writeQueued() {
				return
			}
		case <-ping.C:
			now := time.Now()
			if c.ws.WriteControl(websocket.PingMessage, strconv.AppendInt(nil, now.UnixNano(), 36), now.Add(c.limits.WriteWait)) != nil {
				return
			}
			ping.Reset(c.limits.PingEvery)
		case <-c.done:
			c.drain()
			return
		}
	}
}

func (c *Conn) drain() {
	if c.writeQueued() {
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		_ = c.ws.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second)) // the peer may be gone already
	}
}

func (c *Conn) writeFrame(frame []byte) error {
	until := time.Now().Add(c.limits.WriteWait)
	select {
	case <-c.done:
		until = c.ends
	default:
	}
	if err := c.ws.SetWriteDeadline(until); err != nil {
		return err
	}
	return c.ws.WriteMessage(websocket.BinaryMessage, frame)
}
