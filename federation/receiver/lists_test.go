package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"

	"chancery/storage"
)

const carol id.UserID = "@carol:a.example"

// carols is an answer to a query of carol's keys, with one device.
func carols(public string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"device_keys":{"@carol:a.example":{"PHONE":{"user_id":"@carol:a.example","device_id":"PHONE",
		"keys":{"ed25519:PHONE":%q},"unsigned":{"device_display_name":"Phone"}}}},
		"master_keys":{"@carol:a.example":{"user_id":"@carol:a.example","usage":["master"],"keys":{"ed25519:m":"m"}}}}`, public))
}

// copyOf is what we hold of carol: her phone's key, whether it is believed, and when clients were told last.
func copyOf(t *testing.T, r *Receiver) (public string, stale bool, told storage.Position) {
	t.Helper()
	list, err := r.store.DeviceLists.Remote(t.Context(), carol)
	if err != nil || list == nil {
		t.Fatalf("the copy: got %v, %v", list, err)
	}
	keys, err := r.store.Keys.Devices(t.Context(), carol)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range keys {
		var form struct{ Keys map[string]string }
		if err := json.Unmarshal(d.JSON, &form); err != nil || d.DisplayName != "Phone" {
			t.Errorf("copied: %s named %q, %v", d.JSON, d.DisplayName, err)
		}
		public = form.Keys["ed25519:PHONE"]
	}
	if told, err = r.store.DeviceLists.Newest(t.Context(), carol); err != nil {
		t.Fatal(err)
	}
	return public, list.Stale, told
}

// TestAnswersBecomeTheCopy holds that clients are given nothing that is older than our copy without being told of what is newer.
func TestAnswersBecomeTheCopy(t *testing.T) {
	r := newReceiver(t)
	if err := r.store.Do(t.Context(), func(ctx context.Context) error {
		return r.store.DeviceLists.PutRemote(ctx, storage.RemoteDeviceList{UserID: carol, Stale: true})
	}); err != nil {
		t.Fatal(err)
	}
	query := func(devices []id.DeviceID, answer json.RawMessage, failure error, meanwhile func()) {
		t.Helper()
		got, err := r.Query(t.Context(), map[id.UserID][]id.DeviceID{carol: devices}, func() (json.RawMessage, error) {
			if meanwhile != nil {
				meanwhile()
			}
			return answer, failure
		})
		if !errors.Is(err, failure) || string(got) != string(answer) {
			t.Fatalf("query: got %s, %v, want the server's answer", got, err)
		}
	}
	want := func(what, public string, stale, told bool) {
		t.Helper()
		gotPublic, gotStale, gotTold := copyOf(t, r)
		if gotPublic != public || gotStale != stale || gotTold != 0 != told {
			t.Errorf("%s: got key %q, stale %t, told at %d; want %q, %t, told %t", what, gotPublic, gotStale, gotTold, public, stale, told)
		}
	}
	query(nil, nil, errors.New("away"), nil)
	want("no answer", "", true, false)
	query([]id.DeviceID{"PHONE"}, carols("one"), nil, nil)
	want("a part of the list", "", true, false)
	// An update that comes while the question is under way may be newer than the answer.
	query(nil, carols("one"), nil, func() {
		_ = r.takeDeviceList(t.Context(), "a.example", json.RawMessage(`{"user_id":"@carol:a.example","device_id":"PHONE","keys":{}}`)) // she is in no room of this test
	})
	want("doubted meanwhile", "one", true, false)
	query(nil, carols("one"), nil, nil)
	want("the whole list", "one", false, false)

	// Two asked at once, and the other's answer was newer: it is told, since nobody is told of an update that the copy has.
	since := r.lists.begin(carol)
	defer r.lists.end(carol)
	if err := r.lists.keep(t.Context(), carol, partAnswer(carols("one")).whole(carol), since); err != nil {
		t.Fatal(err)
	}
	want("the same once more", "one", false, false)
	if err := r.lists.keep(t.Context(), carol, partAnswer(carols("two")).whole(carol), since); err != nil {
		t.Fatal(err)
	}
	want("a newer answer", "two", false, true)
}

func FuzzWholeList(f *testing.F) {
	f.Add([]byte(carols("one")))
	f.Add([]byte(`{"device_keys":{"@carol:a.example":{"X":null,"":{},"Y":[1]}},"master_keys":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if list := partAnswer(raw).whole(carol); list != nil {
			for _, d := range list.Devices {
				if d.valid(carol) && !json.Valid(d.Keys) && json.Valid(raw) {
					t.Errorf("%s gave a device with %s", raw, d.Keys)
				}
			}
		}
	})
}
