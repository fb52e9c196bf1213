// Drives the pages: node run.mjs [PART-OF-A-NAME...], with _ for a space; the focus is named by FOCUS_URL, FOCUS_KEY and FOCUS_SECRET, what
// stands beside it by STAGE_URL. Scenarios are in scenarios/, a file for a subject. They run side by side in LANES (3);
// those that measure a picture's quality need the processor, and run alone after the others.
// What fails is played once more in the end, alone, since browsers that share a processor keep no time; the verdict is then the second one,
// and its note tells of the first. Prints a line of JSON for each: {name, ok, note, ms, figures: [{name, unit, value}], out: it was left out}.
// FIGURES is a file to which the figures are appended, a line for each. On another server than ours (OTHER), or with YARDSTICKS, those
// that measure something are played alone.
import { appendFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LeftOut, open, other } from './stage.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const wanted = process.argv.slice(2);
const together = [], alone = [];
for (const file of readdirSync(join(here, 'scenarios')).sort()) {
  const module = await import(join(here, 'scenarios', file));
  if (!module.default && !module.alone) throw new Error(`${file} has no scenarios`);
  for (const [list, found] of [[together, module.default], [alone, module.alone]]) {
    for (const [name, act] of Object.entries(found ?? {})) {
      if (wanted.length && !wanted.some((w) => name.includes(w.replaceAll('_', ' ')))) continue;
      if ((other || process.env.YARDSTICKS) && !act.yardstick) continue;
      for (let i = 0; i < Number(process.env.REPEAT ?? 1); i++) list.push({ name, act });
    }
  }
}

const house = await open();
let failed = false;
const again = [];
async function play({ name, act, before }) {
  const begun = Date.now();
  const stage = house.stage(name);
  const tell = (verdict) => console.log(JSON.stringify({ name, ...verdict, ms: Date.now() - begun, figures: stage.figures }));
  try {
    const note = await act(stage);
    tell({ ok: true, note: (note ?? '') + (before ? `, at the second time; at the first: ${before}` : '') });
  } catch (e) {
    const note = String(e.stack ?? e).split('\n').slice(0, 4).join(' | ');
    if (process.env.VERBOSE) await stage.tell();
    if (e instanceof LeftOut) {
      tell({ ok: true, out: true, note: e.message });
    } else if (before) {
      failed = true;
      tell({ ok: false, note });
    } else {
      again.push({ name, act, before: note });
    }
  }
  if (process.env.FIGURES) for (const f of stage.figures) appendFileSync(process.env.FIGURES, JSON.stringify(f) + '\n');
  await stage.close();
}
async function lane(list) {
  for (let next; (next = list.shift()); ) await play(next);
}
await Promise.all(Array.from({ length: Number(process.env.LANES ?? (other ? 1 : 3)) }, () => lane(together)));
await lane(alone);
await lane(again);
await house.close();
process.exit(failed ? 1 : 0);
