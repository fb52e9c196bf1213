import { pause } from '../stage.mjs';

export default {
  async 'encrypted calls, with late joiners and new keys'(stage) {
    const secret = 'a shared secret';
    await stage.participants(['ann', 'bob'], { secret });
    await stage.all();
    await stage.participant('cat', { secret });
    await stage.all();
    for (const [key, index] of [['the next secret', 1], ['another one', 2]]) {
      await Promise.all(stage.people.map((p) => p.ask((k, i) => window.keys.setKey(k, i), key, index)));
      await pause(300);
      await stage.all();
    }
  },
  async 'who has another key sees nothing'(stage) {
    await stage.participant('ann', { secret: 'the right secret' });
    const b = await stage.participant('bob', { secret: 'the wrong secret', publish: false });
    await b.saw('subscribed:camera', 'ann', 10000);
    await pause(2000);
    if (await b.frames('ann')) throw new Error('bob decoded what he has no key for');
  },
};

export const alone = {
  async 'layers change under encryption'(stage) {
    const secret = 'a shared secret';
    await stage.participant('ann', { secret, resolution: 'h720' });
    const b = await stage.participant('bob', { secret, publish: false });
    await b.moving('ann');
    await b.ask(() => window.call.resize('ann', 300, 168));
    await b.sees(180, 'ann');
    await b.moving('ann');
    await b.ask(() => window.call.resize('ann', 1280, 720));
    await b.sees(720, 'ann');
    await b.moving('ann');
  },
};
