package calls

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"chancery/storage/bus"
)

// TestQuestionsUnderWayAreBounded: each bound by itself, and what has come back makes room again.
func TestQuestionsUnderWayAreBounded(t *testing.T) {
	one := func(what string) func(int) string { return func(int) string { return what } }
	each := func(n int) string { return fmt.Sprint(n) }
	for _, c := range []struct {
		name            string
		address, server func(n int) string
		want            int
	}{
		{"one address, one server", one("here"), one("x.test"), underWayPair},
		{"one address, many servers", one("here"), each, underWayAddress},
		{"many addresses, one server", each, one("x.test"), underWayServer},
		{"many addresses, many servers", each, each, underWayAll},
	} {
		limits := newTokenLimits()
		var open []func()
		for n := range 2 * underWayAll {
			done, err := limits.askOther(c.address(n), c.server(n))
			if err != nil {
				break
			}
			open = append(open, done)
		}
		if len(open) != c.want {
			t.Errorf("%s: %d are under way, want %d", c.name, len(open), c.want)
		}
		open[0]()
		again, err := limits.askOther(c.address(0), c.server(0))
		if err != nil {
			t.Fatalf("%s: after an answer: %v", c.name, err)
		}
		again()
		for _, done := range open[1:] {
			done()
		}
		if len(limits.underWay) != 0 {
			t.Errorf("%s: %v is left", c.name, limits.underWay)
		}
	}
}

// TestAServerThatNeverAnswers is asked a few times at once, however many name it, and also when they do not wait for the answer.
func TestAServerThatNeverAnswers(t *testing.T) {
	messages, _ := openStore(t, bus.Config{})
	asked, answers := make(chan struct{}, 10*underWayPair), make(chan struct{})
	stop, err := bus.Answer(t.Context(), messages, bus.FederationDo, func(ctx context.Context, _ string, _ bus.FederationQuestion) (bus.FederationAnswer, error) {
		asked <- struct{}{}
		select {
		case <-answers:
		case <-ctx.Done():
		}
		return bus.FederationAnswer{}, bus.Refuse(http.StatusForbidden, "M_FORBIDDEN", "no")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	s := &tokenService{house: &house{name: "interior.test", bus: messages}, focus: &Focus{}, limits: newTokenLimits()}
	replies := make(chan *httptest.ResponseRecorder, 10*underWayPair)
	ask := func(ctx context.Context) {
		body := `{"room":"!r:x","device_id":"D","openid_token":{"access_token":"a","matrix_server_name":"tarpit.test"}}`
		w := httptest.NewRecorder()
		s.endpoint(s.sfuGet).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/sfu/get", strings.NewReader(body)))
		replies <- w
	}
	reply := func(want int) *httptest.ResponseRecorder {
		t.Helper()
		select {
		case w := <-replies:
			if w.Code != want {
				t.Fatalf("got %d %s, want %d", w.Code, w.Body, want)
			}
			return w
		case <-time.After(openIDPatience / 2):
			t.Fatalf("no answer, want %d", want)
			return nil
		}
	}
	impatient, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	const many = 4 * underWayPair
	for n := range many {
		if n < underWayPair/2 {
			go ask(impatient)
			<-asked
		} else {
			go ask(t.Context())
		}
	}
	for range many - underWayPair {
		if w := reply(http.StatusTooManyRequests); w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), `"retry_after_ms":1000`) {
			t.Fatalf("got %s and %v, want to be told when to come again", w.Body, w.Header())
		}
	}
	hangUp()
	for range underWayPair / 2 {
		reply(http.StatusUnauthorized)
	}
	ask(t.Context())
	reply(http.StatusTooManyRequests)
	close(answers)
	for range underWayPair / 2 {
		reply(http.StatusUnauthorized)
	}
	ask(t.Context())
	reply(http.StatusUnauthorized)
	if more := len(asked); more != underWayPair/2+1 {
		t.Errorf("the server was asked %d times in all, want %d", more+underWayPair/2, underWayPair+1)
	}
}
