package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"
)

func TestAOneTimeKeyIsGivenOnce(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		const keys, askers = 150, 200
		var upload []OneTimeKey
		for i := range keys {
			upload = append(upload, OneTimeKey{"signed_curve25519", fmt.Sprintf("%03d", i), json.RawMessage(`{"key":"x"}`)})
		}
		do(t, s, func(ctx context.Context) error {
			if err := s.Keys.PutOneTime(ctx, alice, "A", upload); err != nil {
				return err
			}
			return s.Keys.PutFallback(ctx, alice, "A", OneTimeKey{"signed_curve25519", "fallback", json.RawMessage(`{"key":"f"}`)})
		})
		first, err := s.Keys.Claim(t.Context(), []Claim{{alice, "A", "signed_curve25519"}})
		if err != nil || first[Claim{alice, "A", "signed_curve25519"}].KeyID != "000" {
			t.Fatalf("the oldest first: got %v, %v", first, err)
		}
		// On PostgreSQL two processes claim: clients' and other servers' doors.
		doors := []*Store{s, s}
		if s.Postgres() {
			doors[1] = openStore(t, cfg)
		}
		var mu sync.Mutex
		given := map[string]int{}
		var wg sync.WaitGroup
		for i := range askers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				got, err := doors[i%2].Keys.Claim(t.Context(), []Claim{{alice, "A", "signed_curve25519"}, {bob, "B", "signed_curve25519"}})
				if err != nil || len(got) != 1 {
					t.Errorf("claim: got %v, %v", got, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				for _, key := range got {
					given[key.Name()]++
				}
			}()
		}
		wg.Wait()
		for name, n := range given {
			if want := 1; name != "signed_curve25519:fallback" && n != want {
				t.Errorf("%s was given %d times, want %d", name, n, want)
			}
		}
		if got, want := given["signed_curve25519:fallback"], askers-(keys-1); got != want {
			t.Errorf("fallback given %d times, want %d", got, want)
		}
		if unused, err := s.Keys.UnusedFallback(t.Context(), alice, "A"); len(unused) != 0 || err != nil {
			t.Errorf("unused fallback keys: got %v, %v, want none", unused, err)
		}
		if counts, err := s.Keys.OneTimeCounts(t.Context(), alice, "A"); counts["signed_curve25519"] != 0 || err != nil {
			t.Errorf("counts: got %v, %v", counts, err)
		}
	})
}

func TestToDeviceWaitsUntilFetched(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		send := func(txn string, want bool, n int) {
			t.Helper()
			do(t, s, func(ctx context.Context) error {
				first, err := s.ToDevice.Once(ctx, "@bob:interior/B", txn)
				if err != nil || !first {
					if want {
						t.Errorf("%s: not the first", txn)
					}
					return err
				}
				if !want {
					t.Errorf("%s: sent twice", txn)
				}
				var messages []ToDeviceMessage
				for i := range n {
					messages = append(messages, ToDeviceMessage{UserID: alice, DeviceID: "A", JSON: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))})
				}
				return s.ToDevice.Put(ctx, messages)
			})
		}
		send("t1", true, 150)
		send("t1", false, 150)
		page, err := s.ToDevice.After(t.Context(), alice, "A", 0, s.Head(), 100)
		if err != nil || len(page) != 100 || string(page[99].JSON) != `{"n":99}` {
			t.Fatalf("first page: got %d messages, %v", len(page), err)
		}
		do(t, s, func(ctx context.Context) error { return s.ToDevice.Delete(ctx, alice, "A", page[99].Position) })
		rest, err := s.ToDevice.After(t.Context(), alice, "A", 0, s.Head(), 100)
		if err != nil || len(rest) != 50 || string(rest[0].JSON) != `{"n":100}` {
			t.Fatalf("second page: got %d messages, %v", len(rest), err)
		}
		do(t, s, func(ctx context.Context) error { return s.ToDevice.PutOutgoing(ctx, "finance", json.RawMessage(`{}`)) })
		out, err := s.Outbound.For(t.Context(), "finance", 10)
		if err != nil || len(out) != 1 {
			t.Fatalf("outgoing: got %v, %v", out, err)
		}
		do(t, s, func(ctx context.Context) error { return s.Outbound.Remove(ctx, []Position{out[0].Position}) })
		if out, err := s.Outbound.For(t.Context(), "finance", 10); len(out) != 0 || err != nil {
			t.Errorf("after the acknowledgement: got %v, %v", out, err)
		}
	})
}

// K6: a device that fetches nothing does not fill the disk; the oldest messages go first.
func TestK6TheOldestOfTooManyGo(t *testing.T) {
	s := openStore(t, Config{Database: t.TempDir() + "/test.db"})
	const excess = 20
	for n := 0; n < maxToDevice+excess; {
		do(t, s, func(ctx context.Context) error {
			var batch []ToDeviceMessage
			for range min(10_000, maxToDevice+excess-n) {
				batch = append(batch, ToDeviceMessage{UserID: alice, DeviceID: "A", JSON: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n))})
				n++
			}
			return s.ToDevice.Put(ctx, batch)
		})
	}
	do(t, s, func(ctx context.Context) error {
		_, err := s.ToDevice.Trim(ctx, alice, "A")
		return err
	})
	oldest, err := s.ToDevice.After(t.Context(), alice, "A", 0, s.Head(), 1)
	if err != nil || len(oldest) != 1 || string(oldest[0].JSON) != fmt.Sprintf(`{"n":%d}`, excess) {
		t.Errorf("the oldest that waits: got %s, %v, want number %d", oldest[0].JSON, err, excess)
	}
}

func TestSignaturesAreSeenByWhoMayKnow(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		const carol = id.UserID("@carol:interior")
		do(t, s, func(ctx context.Context) error {
			if err := s.Keys.PutCrossSigning(ctx, CrossSigningKey{alice, "master", "M", json.RawMessage(`{}`)}); err != nil {
				return err
			}
			for _, signer := range []id.UserID{alice, bob} {
				if err := s.Keys.PutSignature(ctx, Signature{alice, "M", signer, "ed25519:K", "sig"}); err != nil {
					return err
				}
			}
			return nil
		})
		for viewer, want := range map[id.UserID]int{alice: 1, bob: 2, carol: 1} {
			if sigs, err := s.Keys.Signatures(t.Context(), alice, viewer); len(sigs) != want || err != nil {
				t.Errorf("%s sees %v, %v, want %d", viewer, sigs, err, want)
			}
		}
		do(t, s, func(ctx context.Context) error {
			return s.Keys.PutCrossSigning(ctx, CrossSigningKey{alice, "master", "N", json.RawMessage(`{}`)})
		})
		if sigs, err := s.Keys.Signatures(t.Context(), alice, bob); len(sigs) != 0 || err != nil {
			t.Errorf("signatures of the replaced key: got %v, %v, want none", sigs, err)
		}
	})
}

func TestBackupKeepsTheBetterKey(t *testing.T) {
	eachDatabase(t, func(t *testing.T, cfg Config) {
		s := openStore(t, cfg)
		put := func(k BackupKey) {
			t.Helper()
			k.RoomID, k.SessionID, k.SessionData = "!r", "s", json.RawMessage(`{}`)
			do(t, s, func(ctx context.Context) error { return s.Backups.PutKeys(ctx, alice, 1, []*BackupKey{&k}) })
		}
		for _, want := range []int64{1, 2} {
			do(t, s, func(ctx context.Context) error {
				got, err := s.Backups.Create(ctx, alice, "m.megolm_backup.v1.curve25519-aes-sha2", json.RawMessage(`{}`))
				if got != want {
					t.Errorf("version: got %d, want %d", got, want)
				}
				return err
			})
		}
		put(BackupKey{FirstMessageIndex: 5})
		put(BackupKey{FirstMessageIndex: 6}) // worse
		put(BackupKey{FirstMessageIndex: 5, ForwardedCount: 1})
		v, err := s.Backups.ByVersion(t.Context(), alice, 1)
		if err != nil || v.ETag != 1 || v.Count != 1 {
			t.Errorf("after worse keys: got %+v, %v, want etag 1 and one key", v, err)
		}
		put(BackupKey{FirstMessageIndex: 9, IsVerified: true})
		keys, err := s.Backups.Keys(t.Context(), alice, 1, "", "")
		if err != nil || len(keys) != 1 || !keys[0].IsVerified {
			t.Errorf("got %+v, %v, want the verified key", keys, err)
		}
		do(t, s, func(ctx context.Context) error { return s.Backups.Delete(ctx, alice, 2) })
		do(t, s, func(ctx context.Context) error {
			got, err := s.Backups.Create(ctx, alice, "a", json.RawMessage(`{}`))
			if got != 3 {
				t.Errorf("version after a deletion: got %d, want 3", got)
			}
			return err
		})
	})
}
