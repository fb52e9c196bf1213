// Makes a table of what servers have measured in FIGURES files: node table.mjs ours.json livekit.json ; medians, and how many times
// each was played.
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';

const files = process.argv.slice(2);
const rows = new Map(); // name -> values by file
files.forEach((file, i) => {
  for (const line of readFileSync(file, 'utf8').split('\n').filter(Boolean)) {
    const { name, unit, value } = JSON.parse(line);
    const key = `${name}, ${unit}`;
    if (!rows.has(key)) rows.set(key, files.map(() => []));
    rows.get(key)[i].push(value);
  }
});
const median = (list) => {
  list.sort((a, b) => a - b);
  return (list[(list.length - 1) >> 1] + list[list.length >> 1]) / 2;
};
const cell = (list) => (list.length ? `${+median(list).toPrecision(3)} (${list.length})` : '');
console.log(`| measured | ${files.map((f) => basename(f).replace(/\.\w+$/, '')).join(' | ')} |\n|---|${files.map(() => '---').join('|')}|`);
for (const [key, values] of rows) console.log(`| ${key} | ${values.map(cell).join(' | ')} |`);
