import { atLeast, atMost, pause, until } from '../stage.mjs';

// slow: of lossy data for somebody whose line is too narrow for them what it cannot carry is dropped. They do not wait in a queue, before
// which reliable data would stand; and others get all.
const slow = (options) => async (stage) => {
  const way = await stage.relay();
  const [a, b, c] = await Promise.all(['ann', 'bob', 'cat'].map((n) => stage.participant(n, { ...options, publish: false, relay: n === 'bob' ? way : undefined })));
  await Promise.all(stage.people.map((p) => p.others(2)));
  const got = (p) => p.ask(() => window.call.events.filter((e) => /^data:\d+$/.test(e.what)).map((e) => Number(e.what.slice(5))));
  await way.change({ down: { kbps: 200 } });
  const n = 1200;
  await a.ask((count) => window.call.flood(count, 1000, 6000), n); // eight times what bob's line carries
  const since = Date.now();
  await a.say('after');
  await c.saw('data:after', 'ann', 5000);
  const soon = (await b.saw('data:after', 'ann', 40000)) - since;
  await pause(1000);
  const [few, all] = await Promise.all([b, c].map(got));
  if (few.some((x, i) => i && x <= few[i - 1])) throw new Error(`bob got ${few}: not each once and in order`);
  await way.change({ down: {} });
  await until('bob gets lossy data again', 20000, async () => {
    await a.say('again', { reliable: false });
    return b.ask(() => window.call.saw('data:again', 'ann'));
  });
  atLeast('packets that cat got', all.length, n * 0.95);
  atLeast('packets that bob got', few.length, 60);
  atMost('packets that bob got', few.length, n / 2);
  return `bob got ${few.length} of ${n}, cat ${all.length}; what bob must get came ${atMost('milliseconds until bob gets what is reliable', soon, 8000)} ms after it was said`;
};

export default {
  async 'data reach everybody, or those who are named'(stage) {
    const [a, b, c] = await Promise.all(['ann', 'bob', 'cat'].map((n) => stage.participant(n, { publish: false, single: n !== 'cat' })));
    await Promise.all(stage.people.map((p) => p.others(2)));
    await a.say('all');
    await a.say('bob only', { reliable: true, destinationIdentities: ['bob'] });
    await c.say('lossy', { reliable: false });
    await b.saw('data:all', 'ann');
    await c.saw('data:all', 'ann');
    await b.saw('data:bob only', 'ann');
    await a.saw('data:lossy', 'cat');
    if (await c.ask(() => window.call.saw('data:bob only'))) throw new Error('cat got what was for bob');
    if (await a.ask(() => window.call.saw('data:all'))) throw new Error('ann got her own words back');
  },
  async 'data need the right to send them, taken and given back'(stage) {
    const [a, b] = await Promise.all(['ann', 'bob'].map((n) => stage.participant(n, { publish: false })));
    await Promise.all([a.others(1), b.others(1)]);
    const order = async (may) => {
      await stage.admin('UpdateParticipant', { identity: 'ann', permission: { can_subscribe: true, can_publish: true, can_publish_data: may } });
      await until('ann hears of it', 3000, () => a.ask((m) => window.room.localParticipant.permissions.canPublishData === m, may));
    };
    await a.say('before');
    await b.saw('data:before', 'ann');
    await order(false);
    await a.say('meanwhile').catch(() => {}); // a client may refuse it itself
    await pause(1000); // it takes another way than the order
    await order(true);
    await a.say('after');
    await b.saw('data:after', 'ann');
    if (await b.ask(() => window.call.saw('data:meanwhile'))) throw new Error('bob heard what ann had no right to send');
  },
  async 'reliable data survive a resume, each once and in order'(stage) {
    const ways = [await stage.relay(), await stage.relay()];
    const [a, b] = await Promise.all(['ann', 'bob'].map((n, i) => stage.participant(n, { publish: false, relay: ways[i] })));
    await Promise.all([a.others(1), b.others(1)]);
    let n = 0;
    const speak = async (count) => {
      for (let i = 0; i < count; i++) await a.say(`n${n++}`);
    };
    await speak(5);
    await ways[1].change({ cut: true, up: { loss: 1 }, down: { loss: 1 } });
    await speak(5);
    await pause(500);
    await ways[1].change({ up: {}, down: {} });
    await b.saw('reconnected', '', 20000);
    await ways[0].change({ cut: true });
    await speak(5);
    await a.saw('reconnected', '', 20000);
    await speak(5);
    await b.saw(`data:n${n - 1}`, 'ann', 10000);
    const got = await b.ask(() => window.call.events.filter((e) => e.what.startsWith('data:')).map((e) => e.what.slice(6)).join(' '));
    const want = Array.from({ length: n }, (_, i) => i).join(' ');
    if (got !== want) throw new Error(`got ${got}, want ${want}`);
  },
  'lossy data do not wait for who is slow': slow({}),
  'lossy data do not wait for who is slow, with two peer connections': slow({ single: false }),
  async 'text streams and calls to a participant'(stage) {
    const [a, b] = await stage.participants(['ann', 'bob'], { publish: false });
    await Promise.all([a.others(1), b.others(1)]);
    await b.ask(() => {
      window.room.registerTextStreamHandler('letters', async (reader) => window.call.note(`letter ${(await reader.readAll()).length}`));
      window.room.localParticipant.registerRpcMethod('add', async ({ payload }) => String(JSON.parse(payload).reduce((x, y) => x + y)));
    });
    await a.ask(() => window.room.localParticipant.sendText('x'.repeat(100000), { topic: 'letters' }));
    await b.saw('letter 100000');
    const sum = await a.ask(() => window.room.localParticipant.performRpc({ destinationIdentity: 'bob', method: 'add', payload: '[1,2,3]' }));
    if (sum !== '6') throw new Error(`got ${sum}, want 6`);
  },
  async 'a data track, of which there are none, is refused at once'(stage) {
    const a = await stage.participant('ann', { publish: false });
    const began = Date.now();
    const refused = await a.ask(() => window.room.localParticipant.publishDataTrack({ name: 'track' }).then(() => '', (e) => `${e.reasonName}: ${e.message}`));
    if (!refused.startsWith('Unknown')) throw new Error(`got "${refused}", want it refused by the focus`);
    if (Date.now() - began > 5000) throw new Error(`refused after ${Date.now() - began} ms`);
  },
  async 'metadata, name and attributes'(stage) {
    const [a, b] = await stage.participants(['ann', 'bob'], { publish: false });
    await b.others(1);
    const seen = (what, test) => until(`bob sees ${what}`, 3000, () => b.ask(test));
    await a.ask(() => window.room.localParticipant.setMetadata('busy'));
    await seen('the metadata', () => window.room.remoteParticipants.get('ann').metadata === 'busy');
    await a.ask(() => window.room.localParticipant.setName('Ann of the Interior'));
    await seen('the name', () => window.room.remoteParticipants.get('ann').name === 'Ann of the Interior');
    await a.ask(() => window.room.localParticipant.setAttributes({ hand: 'up', mood: 'fine' }));
    await seen('the attributes', () => window.room.remoteParticipants.get('ann').attributes.hand === 'up');
    await a.ask(() => window.room.localParticipant.setAttributes({ hand: '' }));
    await seen('one attribute less', () => !('hand' in window.room.remoteParticipants.get('ann').attributes) && window.room.remoteParticipants.get('ann').attributes.mood === 'fine');
    const c = await stage.participant('cat', { publish: false, grants: { canUpdateOwnMetadata: false } });
    const refused = await c.ask(() => window.room.localParticipant.setMetadata('x').then(() => '', (e) => e.message || 'refused'));
    if (!refused) throw new Error('metadata were changed without the right to do so');
  },
};
