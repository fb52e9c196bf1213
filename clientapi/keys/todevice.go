package keys

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"chancery/clientapi/rest"
	"chancery/storage"
)

// everyDevice names all devices of a user.
const everyDevice id.DeviceID = "*"

// Bounds of one EDU to another server.
const (
	eduBytes    = 48 << 10
	eduMessages = 100
)

// SendToDevice handles PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}.
// Spec: client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid
func (h *Handlers) SendToDevice(r *rest.Request) (any, error) {
	if err := needDevice(r); err != nil {
		return nil, err
	}
	typ, txn := r.Path("eventType"), r.Path("txnId")
	if len(typ) > 255 || len(txn) > 255 {
		return nil, mautrix.MInvalidParam.WithMessage("Type and transaction ID have at most 255 bytes")
	}
	var body struct {
		Messages map[id.UserID]map[id.DeviceID]json.RawMessage `json:"messages"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Messages == nil {
		return nil, errMissing.WithMessage("messages is missing")
	}
	own := map[id.UserID]map[id.DeviceID]json.RawMessage{}
	abroad := map[string]*parcel{}
	for user, devices := range body.Messages {
		if !rest.ValidUserID(user) {
			return nil, mautrix.MInvalidParam.WithMessage("messages names somebody who is no user")
		}
		for device, content := range devices {
			if len(content) == 0 || content[0] != '{' {
				return nil, mautrix.MBadJSON.WithMessage("A message has to be an object")
			}
			if !h.local(user) {
				server := user.Homeserver()
				if abroad[server] == nil {
					abroad[server] = &parcel{Sender: r.By.User, Type: typ}
				}
				abroad[server].add(user, device, content)
			}
		}
		if h.local(user) {
			own[user] = devices
		}
	}
	sender := fmt.Sprintf("%s/%s", r.By.User, r.By.Device)
	return rest.Empty, h.store.Do(r.Context(), func(ctx context.Context) error {
		first, err := h.store.ToDevice.Once(ctx, sender, typ+"/"+txn)
		if err != nil || !first {
			return err
		}
		if err := h.deliver(ctx, r.By.User, typ, own); err != nil {
			return err
		}
		for server, p := range abroad {
			for _, edu := range p.edus() {
				if err := h.store.ToDevice.PutOutgoing(ctx, server, edu); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// deliver stores messages for our own devices, inside Do: one statement finds the devices, one writes the messages,
// however many there are. Devices that do not exist get none.
func (h *Handlers) deliver(ctx context.Context, sender id.UserID, typ string, messages map[id.UserID]map[id.DeviceID]json.RawMessage) error {
	devices, err := h.store.Devices.IDs(ctx, slices.Sorted(maps.Keys(messages)))
	if err != nil {
		return err
	}
	var rows []storage.ToDeviceMessage
	for user, byDevice := range messages {
		for _, device := range devices[user] {
			content, ok := byDevice[device]
			if !ok {
				content, ok = byDevice[everyDevice]
			}
			if !ok {
				continue
			}
			raw, err := json.Marshal(struct {
				Sender  id.UserID       `json:"sender"`
				Type    string          `json:"type"`
				Content json.RawMessage `json:"content"`
			}{sender, typ, content})
			if err != nil {
				return err
			}
			rows = append(rows, storage.ToDeviceMessage{UserID: user, DeviceID: device, JSON: raw})
		}
	}
	return h.store.ToDevice.Put(ctx, rows)
}

// parcel gathers messages for one server.
// Spec: server-server-api/#definition-mdirect_to_device
type parcel struct {
	Sender    id.UserID                                     `json:"sender"`
	Type      string                                        `json:"type"`
	MessageID string                                        `json:"message_id"`
	Messages  map[id.UserID]map[id.DeviceID]json.RawMessage `json:"messages"`

	bytes, count int
	full         []json.RawMessage
}

func (p *parcel) add(user id.UserID, device id.DeviceID, content json.RawMessage) {
	if p.count > 0 && (p.bytes+len(content) > eduBytes || p.count >= eduMessages) {
		p.close()
	}
	if p.Messages == nil {
		p.Messages = map[id.UserID]map[id.DeviceID]json.RawMessage{}
	}
	if p.Messages[user] == nil {
		p.Messages[user] = map[id.DeviceID]json.RawMessage{}
	}
	p.Messages[user][device] = content
	p.bytes += len(content)
	p.count++
}

// close seals what was gathered as one EDU's content.
func (p *parcel) close() {
	if p.count == 0 {
		return
	}
	p.MessageID = rand.Text()
	raw, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings, and JSON that was checked when it came in
	}
	p.full = append(p.full, raw)
	p.Messages, p.bytes, p.count = nil, 0, 0
}

// edus are the contents of the EDUs that carry it all. The same each time.
func (p *parcel) edus() []json.RawMessage {
	p.close()
	return p.full
}
