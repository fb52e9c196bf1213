package calls

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
)

// stage is what the browser tests reach beside the focus itself: ways to it that can be made worse, and a focus in a
// process of its own that can be killed. Its controls are HTTP.
type stage struct {
	t      *testing.T
	other  bool   // the scenarios are played on another server
	focus  *Focus // in this process, unless they are
	media  string // UDP address of the focus in this process, or of the other server; empty: not known
	door   string // HTTP address of it
	server *httptest.Server

	mu     sync.Mutex
	relays []*relay
	apart  *process
}

// newStage serves the controls of a focus that is reached at url.
func newStage(t *testing.T, f *Focus, url string) *stage {
	t.Helper()
	s := &stage{t: t, focus: f, media: mediaAddress(t, f), door: strings.TrimPrefix(url, "ws://")}
	s.open()
	return s
}

// newOwnStage serves the controls of a focus of its own, whose house takes orders.
func newOwnStage(t *testing.T) *stage {
	t.Helper()
	f, url := newTestFocus(t)
	f.admit, f.refreshEvery = &ruledHouse{}, 15*time.Second // so that a scenario sees more than a first new token
	return newStage(t, f, url)
}

// drive is the command that lets node play what args name on the stage.
func (s *stage) drive(node, key, secret string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.t.Context(), node, args...)
	cmd.Dir = "browser"
	cmd.Env = append(os.Environ(), "FOCUS_URL="+s.url(), "FOCUS_KEY="+key, "FOCUS_SECRET="+secret, "STAGE_URL="+s.server.URL)
	if s.other {
		cmd.Env = append(cmd.Env, "OTHER=1")
	}
	cmd.Stderr = os.Stderr
	return cmd
}

// newOtherStage serves the controls of the server that the environment names, and starts it if it says how; nil: it names none.
func newOtherStage(t *testing.T) *stage {
	t.Helper()
	url := os.Getenv("SFU_URL")
	if url == "" {
		return nil
	}
	s := &stage{t: t, other: true, media: os.Getenv("SFU_MEDIA"), door: strings.TrimPrefix(strings.TrimSuffix(url, "/"), "ws://")}
	if command := strings.Fields(os.Getenv("SFU_CMD")); len(command) > 0 {
		s.apart = &process{t: t, door: s.door, command: command}
		t.Cleanup(func() { s.apart.end(syscall.SIGKILL) })
		s.apart.start()
	}
	s.open()
	return s
}

func (s *stage) open() {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /relay", s.openRelay)
	mux.HandleFunc("POST /relay/{n}", s.changeRelay)
	mux.HandleFunc("POST /process/{what}", s.changeProcess)
	mux.HandleFunc("POST /order", s.order)
	s.server = httptest.NewServer(mux)
	s.t.Cleanup(s.server.Close)
}

func (s *stage) url() string { return "ws://" + s.door }

// mediaAddress is the focus's UDP address on the loopback.
func mediaAddress(t *testing.T, f *Focus) string {
	t.Helper()
	pc, err := f.engine.NewPeer()
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	found := make(chan string, 8)
	pc.OnICECandidate(func(c *webrtc.ICECandidate) {
		if c != nil && c.Protocol.String() == "udp" {
			found <- net.JoinHostPort(c.Address, strconv.Itoa(int(c.Port)))
		}
	})
	if _, err := pc.CreateDataChannel("x", nil); err != nil {
		t.Fatal(err)
	}
	offer, err := pc.CreateOffer(nil)
	if err == nil {
		err = pc.SetLocalDescription(offer)
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case address := <-found:
		return address
	case <-time.After(patience):
		t.Fatal("the focus has no UDP candidate")
		return ""
	}
}

func reply(w http.ResponseWriter, v any) {
	_ = json.NewEncoder(w).Encode(v) // the page's driver is gone: the test has ended
}

// openRelay makes a way for one participant, to the focus here or to the one apart.
func (s *stage) openRelay(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.media == "" {
		http.Error(w, "SFU_MEDIA is not given", http.StatusNotImplemented)
		return
	}
	media, door := s.media, s.door
	if r.URL.Query().Has("apart") && s.apart != nil {
		media, door = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.apart.media)), s.apart.door
	}
	way := newRelay(s.t, media, door)
	s.relays = append(s.relays, way)
	_, focusPort, _ := net.SplitHostPort(media)
	reply(w, map[string]any{"id": len(s.relays) - 1, "url": "ws://" + way.door.Addr().String(), "from": focusPort, "to": strconv.Itoa(way.port())})
}

func (s *stage) changeRelay(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.PathValue("n"))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || n < 0 || n >= len(s.relays) {
		http.NotFound(w, r)
		return
	}
	s.relays[n].serve(w, r)
}

// changeProcess starts, kills or stops the focus in a process of its own.
func (s *stage) changeProcess(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.apart == nil && s.other:
		http.Error(w, "SFU_CMD is not given", http.StatusNotImplemented)
		return
	case s.apart == nil:
		s.apart = newProcess(s.t)
	}
	switch r.PathValue("what") {
	case "start":
		s.apart.start()
	case "kill":
		s.apart.end(syscall.SIGKILL)
	case "stop":
		s.apart.end(syscall.SIGTERM)
	}
	reply(w, map[string]any{"url": "ws://" + s.apart.door})
}

// ruledHouse lets in whom the token does, but for calls whose name says what a homeserver could: see rule in browser/stage.mjs. What
// else one could say of somebody is ordered.
type ruledHouse struct {
	said sync.Map // what holds of a participant, by call and identity: ruling
}

type seat struct{ room, identity string }

func (h *ruledHouse) admit(_ context.Context, c *Claims) (ruling, error) {
	v := unbound
	if said, ok := h.said.Load(seat{c.Video.Room, c.Subject}); ok {
		v = said.(ruling)
	}
	v.start, v.locked = !strings.HasSuffix(c.Video.Room, ", begun by nobody"), strings.HasSuffix(c.Video.Room, ", locked")
	return v, nil
}

// order lets something hold of a participant, as a homeserver's room would.
func (s *stage) order(w http.ResponseWriter, r *http.Request) {
	var about struct {
		Room, Identity string
		Mute           bool
		NoVideo        bool `json:"no_video"`
	}
	if err := json.NewDecoder(r.Body).Decode(&about); err != nil || s.focus == nil {
		http.Error(w, "nobody takes this order", http.StatusBadRequest)
		return
	}
	v := unbound
	v.mute, v.noVideo = about.Mute, about.NoVideo
	s.focus.admit.(*ruledHouse).said.Store(seat{about.Room, about.Identity}, v)
	for _, p := range s.focus.present(func(p *Participant) bool { return p.room.name == about.Room && p.identity == about.Identity }) {
		p.post(func() { p.obey(v) })
	}
}

// process is a focus alone in another process, always on the same ports; or another server.
type process struct {
	t          *testing.T
	door       string
	media, tcp int
	command    []string // of another server
	cmd        *exec.Cmd
}

func newProcess(t *testing.T) *process {
	p := &process{t: t}
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	p.media = udp.LocalAddr().(*net.UDPAddr).Port
	udp.Close()
	var open []net.Listener
	for range 2 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, l)
	}
	p.door, p.tcp = open[0].Addr().String(), open[1].Addr().(*net.TCPAddr).Port
	for _, l := range open {
		l.Close()
	}
	t.Cleanup(func() { p.end(syscall.SIGKILL) })
	return p
}

// otherPatience is how long another server may take to end.
const otherPatience = 5 * time.Second

const processEnv = "CHANCERY_TEST_FOCUS" // door, UDP port, TCP port

// start returns when the process answers.
func (p *process) start() {
	if p.cmd != nil {
		return
	}
	if len(p.command) > 0 {
		p.cmd = exec.Command(p.command[0], p.command[1:]...)
	} else {
		p.cmd = exec.Command(os.Args[0], "-test.run=^$")
		p.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", processEnv, p.door, p.media, p.tcp))
	}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		p.t.Errorf("start a focus: %v", err)
		return
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if resp, err := http.Get("http://" + p.door + "/"); err == nil {
			resp.Body.Close()
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.t.Errorf("the focus at %s does not answer within %v", p.door, patience)
}

func (p *process) end(how syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(how)
	if len(p.command) > 0 { // it may wait for its clients to leave, who wait to be sent away
		process := p.cmd.Process
		last := time.AfterFunc(otherPatience, func() { _ = process.Kill() })
		defer last.Stop()
	}
	_ = p.cmd.Wait() // killed: an error by design
	p.cmd = nil
}

// TestMain makes this binary a focus of its own where a test asks for that.
func TestMain(m *testing.M) {
	if where := os.Getenv(processEnv); where != "" {
		if err := runProcess(where); err != nil {
			fmt.Fprintln(os.Stderr, "focus apart:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func runProcess(where string) error {
	config := testConfig()
	var door string
	if _, err := fmt.Sscan(where, &door, &config.UDPPort, &config.TCPPort); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	f, err := NewStandalone(ctx, config)
	if err != nil {
		return err
	}
	srv := &http.Server{Addr: door, Handler: f.Handler()}
	go func() { _ = srv.ListenAndServe() }() // a door that does not open shows in the test's waiting
	err = f.Run(ctx)
	srv.Close()
	return err
}
