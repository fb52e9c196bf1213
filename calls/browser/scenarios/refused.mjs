// What a client makes of not being let in. A browser sees no status of a socket that was refused: livekit-client asks /rtc/validate for it,
// hands on what it says with a 401, 403 and 404, and knows nothing of other refusals. (2.23.0)

// refused tries to join, and gives what the client says and what it was answered.
async function refused(stage, token, options) {
  const p = await stage.page('zoe');
  return p.ask(async (url, given, o) => {
    const error = await window.call.join(url, given, { publish: false, ...o }).then(() => 'let in', (e) => `${e.reasonName} ${e.status}: ${e.message}`);
    const asked = await fetch(`${url.replace('ws', 'http')}/rtc/validate?access_token=${given}`);
    return { error, answer: `${asked.status} ${await asked.text()}` };
  }, stage.url, token, options);
}

const unreachable = (status, why) => `ServerUnreachable ${status}: could not establish signal connection: ${why}`;

// says: what the client says, where it is not the answer itself.
const each = {
  'a token that somebody else has signed': { token: (stage) => stage.token('zoe').replace(/.{43}$/, 'A'.repeat(43)), answer: '401 invalid token' },
  'a token that does not permit to join': { grants: { roomJoin: false }, answer: '401 the token does not permit to join' },
  'a locked call': { rule: 'locked', answer: '403 the call is locked' },
  'a call that nobody may begin': { rule: 'begun by nobody', answer: '404 requested room does not exist' },
  'a full call': { most: 1, answer: '503 the room is full', says: unreachable(undefined, 'Encountered websocket error during connection establishment') },
};

const all = {};
for (const [name, { token, grants, rule, most, answer, says }] of Object.entries(each)) {
  const [, status, why] = /^(\d+) (.*)/.exec(answer);
  all[`${name}: what the refused client says`] = async (stage) => {
    if (rule) stage.rule(rule);
    if (most) {
      await stage.admin('CreateRoom', { name: stage.room, max_participants: most });
      await stage.participant('ann', { publish: false });
    }
    for (const options of [{}, { single: false }]) {
      const got = await refused(stage, token?.(stage) ?? stage.token('zoe', grants), options);
      const want = { error: says ?? unreachable(status, why), answer };
      if (got.error !== want.error || got.answer !== want.answer) {
        throw new Error(`with ${JSON.stringify(options)}: got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
      }
    }
  };
}
export default all;
