import { pause, yardstick } from '../stage.mjs';

// gone: how long until bob notices that ann has gone, when she goes by act.
async function gone(stage, act, options = {}) {
  const [a, b] = await stage.participants(['ann', 'bob'], options);
  await stage.all();
  const since = Date.now();
  await act(a);
  return (await b.saw('left', 'ann', 40000, since)) - since;
}
const leave = (a) => a.ask(() => void window.room.disconnect());
const close = (a) => void a.page.close({ runBeforeUnload: false });
const crash = async (a) => {
  const wire = await a.page.context().newCDPSession(a.page);
  wire.send('Page.crash').catch(() => {}); // has no answer
};
const seen = (name, most, act, options) => yardstick(async (stage) => {
  return `seen after ${stage.figure(name, 'ms', await gone(stage, act, options), { most })} ms`;
});
// quiet is seen for somebody who publishes nothing.
const quiet = (name, most, act) => yardstick(async (stage) => {
  const a = await stage.participant('ann', { publish: false });
  const b = await stage.participant('bob', { publish: false });
  await b.others(1);
  await pause(500);
  const since = Date.now();
  await act(a);
  return `seen after ${stage.figure(name, 'ms', (await b.saw('left', 'ann', 60000, since)) - since, { most })} ms`;
});

export const alone = {
  'a leave is seen within 300 ms': seen('a leave is seen', 300, leave),
  'a leave with two peer connections is seen within 300 ms': seen('a leave is seen, two peer connections', 300, leave, { single: false }),
  'a closed page is seen within 300 ms': seen('a closed page is seen', 300, close),
  'a closed page with two peer connections is seen within 300 ms': seen('a closed page is seen, two peer connections', 300, close, { single: false }),
  'a crashed page is seen within 300 ms': seen('a crashed page is seen', 300, crash),
  'a crashed page with two peer connections is seen within 300 ms': seen('a crashed page is seen, two peer connections', 300, crash, { single: false }),
  'a leave of one who only listened is seen within 300 ms': quiet('a leave of one who only listened is seen', 300, leave),
  'a crashed page that only listened is gone within three seconds': quiet('a crashed page that only listened is seen', 3000, crash),
};
