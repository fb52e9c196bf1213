// Draws somebody in front of a camera, as a YUV4MPEG film of a second: for pictures of calls without real people in them.

const WIDTH = 640;
const HEIGHT = 360;
const FRAMES = 20;

// Soft ellipses and boxes: how far inside a point lies, from 0 to 1, with a blurred edge.
const soft = (distance, blur) => Math.min(1, Math.max(0, 0.5 - distance / blur));
const ellipse = (x, y, cx, cy, rx, ry, blur) => soft((Math.hypot((x - cx) / rx, (y - cy) / ry) - 1) * Math.min(rx, ry), blur);
const box = (x, y, x0, y0, x1, y1, blur) => soft(Math.max(x0 - x, x - x1, y0 - y, y - y1), blur);

// colour of one point at one time; layers from the back to the front.
function colour(x, y, time, { wall, hair, skin, coat }) {
  const sway = Math.sin(time * 2 * Math.PI) * 3;
  const nod = Math.cos(time * 2 * Math.PI) * 1.5;
  let now = wall.map((value) => value * (0.72 + 0.42 * (1 - y / HEIGHT)) * (0.92 + 0.16 * (x / WIDTH)));
  const lay = (paint, amount) => {
    now = now.map((value, i) => value * (1 - amount) + paint[i] * amount);
  };
  const shade = (paint, factor) => paint.map((value) => Math.min(255, value * factor));
  // A window, out of focus, and a shelf with files.
  lay([244, 246, 250], 0.85 * box(x, y, 36, 30, 190, 205, 26));
  lay(shade(wall, 0.9), 0.8 * box(x, y, 109, 30, 117, 205, 10));
  lay(shade(wall, 0.62), 0.9 * box(x, y, 470, 150, 640, 158, 8));
  for (let i = 0; i < 7; i++) lay(shade(i % 3 ? coat : hair, 1.35), 0.55 * box(x, y, 488 + i * 22, 78 + (i % 2) * 10, 504 + i * 22, 149, 9));
  // The person.
  lay(shade(hair, 0.9), ellipse(x, y, 320 + sway, 168 + nod, 84, 112, 5));
  lay(coat, ellipse(x, y, 320 + sway * 0.5, 428, 196, 160, 4));
  lay(shade(coat, 0.8), 0.7 * ellipse(x, y, 318 + sway * 0.5, 440, 60, 150, 30));
  lay([240, 240, 242], ellipse(x, y, 320 + sway * 0.6, 292, 44, 46, 3));
  lay(shade(skin, 0.88), box(x, y, 292 + sway, 210, 348 + sway, 276, 6));
  lay(shade(skin, 0.88), ellipse(x, y, 320 + sway, 274, 29, 22, 4));
  lay(skin, ellipse(x, y, 320 + sway, 172 + nod, 60, 77, 3));
  lay(shade(skin, 1.06), 0.6 * ellipse(x, y, 304 + sway, 158 + nod, 34, 44, 40));
  lay(hair, ellipse(x, y, 320 + sway, 112 + nod, 66, 36, 5));
  lay(hair, ellipse(x, y, 272 + sway, 140 + nod, 20, 48, 6));
  lay(hair, ellipse(x, y, 368 + sway, 140 + nod, 20, 48, 6));
  const blink = time > 0.5 && time < 0.56 ? 0.2 : 1;
  for (const side of [-1, 1]) {
    lay(shade(hair, 0.8), 0.85 * ellipse(x, y, 320 + side * 25 + sway, 150 + nod, 12, 2.6, 3));
    lay([250, 250, 250], ellipse(x, y, 320 + side * 25 + sway, 166 + nod, 9.5, 5.6 * blink, 2));
    lay([46, 38, 34], ellipse(x, y, 320 + side * 25 + sway * 1.3, 166 + nod, 4.6, 4.8 * blink, 2));
  }
  lay(shade(skin, 0.85), 0.6 * ellipse(x, y, 322 + sway, 190 + nod, 8, 12, 12));
  lay([176, 84, 78], 0.9 * ellipse(x, y, 320 + sway, 214 + nod, 19, 4.5 + 2 * Math.abs(Math.sin(time * 6 * Math.PI)), 3));
  return now;
}

// portrait gives the whole film, 4:2:0.
export function portrait(person) {
  const parts = [Buffer.from(`YUV4MPEG2 W${WIDTH} H${HEIGHT} F20:1 Ip A1:1 C420jpeg\n`)];
  for (let frame = 0; frame < FRAMES; frame++) {
    const luma = Buffer.alloc(WIDTH * HEIGHT);
    const blue = Buffer.alloc((WIDTH * HEIGHT) / 4);
    const red = Buffer.alloc((WIDTH * HEIGHT) / 4);
    for (let y = 0; y < HEIGHT; y++) {
      for (let x = 0; x < WIDTH; x++) {
        const [r, g, b] = colour(x, y, frame / FRAMES, person);
        luma[y * WIDTH + x] = Math.round(0.299 * r + 0.587 * g + 0.114 * b);
        if (x % 2 || y % 2) continue;
        const at = (y / 2) * (WIDTH / 2) + x / 2;
        blue[at] = Math.round(Math.min(255, Math.max(0, 128 - 0.1687 * r - 0.3313 * g + 0.5 * b)));
        red[at] = Math.round(Math.min(255, Math.max(0, 128 + 0.5 * r - 0.4187 * g - 0.0813 * b)));
      }
    }
    parts.push(Buffer.from("FRAME\n"), luma, blue, red);
  }
  return Buffer.concat(parts);
}
