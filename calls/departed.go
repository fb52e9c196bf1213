package calls

import (
	"time"

	"chancery/calls/signal"
)

// departed remembers for a while who has left, since a client whose socket was lost has not heard it: without being
// told at its resume it would show them for ever.
type departed struct {
	list []departure
}

type departure struct {
	info *signal.Participant
	at   time.Time
}

const (
	departedFor  = 2 * time.Minute // longer than any client tries to resume
	departedMost = 512
)

func (d *departed) note(info *signal.Participant, now time.Time) {
	for len(d.list) > 0 && (len(d.list) >= departedMost || now.Sub(d.list[0].at) > departedFor) {
		d.list = d.list[1:]
	}
	d.list = append(d.list, departure{info, now})
}

// missed gives those who have left, but for those who came back under the same identity: clients go by identity.
func (d *departed) missed(now time.Time, present map[string]*peer) (infos []*signal.Participant) {
	here := map[string]bool{}
	for _, p := range present {
		here[p.info.Identity] = true
	}
	for _, one := range d.list {
		if now.Sub(one.at) <= departedFor && !here[one.info.Identity] {
			infos = append(infos, one.info)
		}
	}
	return infos
}
