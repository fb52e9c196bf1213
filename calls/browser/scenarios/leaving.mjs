import { atMost, pause } from '../stage.mjs';

// gone: how long until bob notices that ann has gone, when she goes by act.
async function gone(stage, act, options = {}) {
  const [a, b] = await stage.participants(['ann', 'bob'], options);
  await stage.all();
  const since = Date.now();
  await act(a);
  return (await b.saw('left', 'ann', 20000, since)) - since;
}
const within = (ms) => `seen after ${atMost('seen after', ms, 300)} ms`;

export const alone = {
  async 'a leave is seen within 300 ms'(stage) {
    return within(await gone(stage, (a) => a.ask(() => void window.room.disconnect())));
  },
  async 'a leave with two peer connections is seen within 300 ms'(stage) {
    return within(await gone(stage, (a) => a.ask(() => void window.room.disconnect()), { single: false }));
  },
  async 'a closed page is seen within 300 ms'(stage) {
    return within(await gone(stage, (a) => void a.page.close({ runBeforeUnload: false })));
  },
  async 'a crashed page is seen within 300 ms'(stage) {
    return within(await gone(stage, async (a) => {
      const wire = await a.page.context().newCDPSession(a.page);
      wire.send('Page.crash').catch(() => {}); // has no answer
    }));
  },
  async 'a crashed page that only listened is gone within a few seconds'(stage) {
    const a = await stage.participant('ann', { publish: false });
    const b = await stage.participant('bob', { publish: false });
    await b.others(1);
    await pause(500);
    const since = Date.now();
    const wire = await a.page.context().newCDPSession(a.page);
    wire.send('Page.crash').catch(() => {});
    return `seen after ${atMost('seen after', (await b.saw('left', 'ann', 20000, since)) - since, 8000)} ms`;
  },
};
