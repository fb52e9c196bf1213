package calls

import (
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestMonkey lets livekit-client's pages do random things at once for CHANCERY_MONKEY, and compares what everybody knows and gets
// with what it should be: see browser/monkey.mjs. MONKEY_SEEDS are those to play instead.
func TestMonkey(t *testing.T) {
	how := os.Getenv("CHANCERY_MONKEY")
	if how == "" {
		t.Skip("CHANCERY_MONKEY is not given: how long the monkey plays")
	}
	long, err := time.ParseDuration(how)
	if err != nil {
		t.Fatal(err)
	}
	node := browsers(t)
	stage := newOwnStage(t)
	before := runtime.NumGoroutine()
	cmd := stage.drive(node, testKey, testSecret, append([]string{"monkey.mjs"}, strings.Fields(os.Getenv("MONKEY_SEEDS"))...)...)
	cmd.Env = append(cmd.Env, "MONKEY_SECONDS="+strconv.Itoa(int(long.Seconds())))
	cmd.Stdout = os.Stdout
	if err := cmd.Run(); err != nil {
		t.Errorf("monkey.mjs: %v", err)
	}
	stage.empty()
	// those who closed their pages without a word are gone twenty seconds later
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		people, after := metric(t, "chancery_calls_participants"), runtime.NumGoroutine()
		if people == 0 && metric(t, "chancery_calls_rooms") == 0 && after <= before+5 {
			break
		}
		if time.Now().After(end) {
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			t.Fatalf("a minute later there are %v participants in %v calls, and %d goroutines, want %d", people, metric(t, "chancery_calls_rooms"), after, before)
		}
	}
	if n := metric(t, "chancery_calls_faults_total"); n != 0 {
		t.Errorf("got %v faults, want none", n)
	}
}

// empty takes the stage down but for the focus in this process.
func (s *stage) empty() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, way := range s.relays {
		way.close()
	}
	s.relays = nil
	if s.apart != nil {
		s.apart.end(syscall.SIGKILL)
	}
	s.server.CloseClientConnections()
}

// metric reads one that is one number.
func metric(t *testing.T, name string) float64 {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}
