// What the views draw with: elements, icons, the seal, colours and words for people and times.

// h makes an element: h("button.primary", { onclick }, "Join").
export function h(tag, props, ...children) {
  if (props instanceof Node || typeof props === "string" || Array.isArray(props)) {
    children.unshift(props);
    props = null;
  }
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  element.className = classes.join(" ");
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") element.className += " " + value;
    else if (key === "style") element.style.cssText = value;
    else if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const paths = {
  video: "M3.5 8.2c0-1 .8-1.7 1.7-1.7h8.1c1 0 1.7.8 1.7 1.7v7.6c0 1-.8 1.7-1.7 1.7H5.2c-1 0-1.7-.8-1.7-1.7zM15 10.7l4.4-2.6c.5-.3 1.1 0 1.1.6v6.6c0 .6-.6.9-1.1.6L15 13.3",
  mic: "M12 3.8a2.7 2.7 0 0 0-2.7 2.7v5a2.7 2.7 0 0 0 5.4 0v-5A2.7 2.7 0 0 0 12 3.8zM6.3 11.2a5.7 5.7 0 0 0 11.4 0M12 17v3.2M9 20.2h6",
  screen: "M4.5 5h15c.8 0 1.5.7 1.5 1.5v8c0 .8-.7 1.5-1.5 1.5h-15C3.7 16 3 15.3 3 14.5v-8C3 5.7 3.7 5 4.5 5zM8.5 19.5h7M12 13.2V8.3M9.7 10.3 12 8l2.3 2.3",
  leave: "M4.2 14.8c-.9-.9-1-2.3-.2-3.2C6 9.2 8.9 8 12 8s6 1.2 8 3.6c.8.9.7 2.3-.2 3.2l-.6.6c-.5.5-1.3.6-1.9.2l-2-1.3c-.5-.3-.8-.9-.8-1.5v-.9c-1.6-.6-3.4-.6-5 0v.9c0 .6-.3 1.2-.8 1.5l-2 1.3c-.6.4-1.4.3-1.9-.2z",
  send: "M4.6 12 3.8 5.3c-.1-.8.7-1.4 1.4-1l15 7c.7.3.7 1.3 0 1.6l-15 7c-.7.4-1.5-.3-1.4-1zM4.6 12h7",
  people: "M9 11.3a3.1 3.1 0 1 0 0-6.2 3.1 3.1 0 0 0 0 6.2zM3.3 18.7c0-2.7 2.5-4.5 5.7-4.5s5.7 1.8 5.7 4.5M15.4 5.4a3 3 0 0 1 0 5.6M17.3 14.5c2 .6 3.4 2.2 3.4 4.2",
  out: "M14 7.5V6c0-.8-.7-1.5-1.5-1.5h-6C5.7 4.5 5 5.2 5 6v12c0 .8.7 1.5 1.5 1.5h6c.8 0 1.5-.7 1.5-1.5v-1.5M10 12h10M17.2 9.2 20 12l-2.8 2.8",
  slash: "M4.500 4.500l15 15",
  check: "M5 12.500l4.500 4.500L19 7.500",
  door: "M6.500 20V5.500c0-.8.7-1.500 1.500-1.500h8c.8 0 1.500.7 1.500 1.500V20M4 20h16M14 12.200v.1",
};

// icon draws one of the line icons; off adds the stroke that crosses it out.
export function icon(name, off = false) {
  const holder = document.createElement("span");
  holder.className = "icon";
  const strokes = [paths[name], off ? paths.slash : null].filter(Boolean);
  holder.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true">${strokes.map((d) => `<path d="${d}"/>`).join("")}</svg>`;
  return holder;
}

// seal draws the house's mark: a scalloped seal with an open C, as pressed into wax.
export function seal(size) {
  const holder = document.createElement("span");
  holder.className = "seal";
  holder.style.cssText = `width:${size}px;height:${size}px`;
  const points = [];
  for (let i = 0; i <= 240; i++) {
    const angle = (i / 240) * 2 * Math.PI;
    const radius = 46 + 1.8 * Math.cos(angle * 24);
    points.push(`${(50 + radius * Math.cos(angle)).toFixed(2)},${(50 + radius * Math.sin(angle)).toFixed(2)}`);
  }
  holder.innerHTML = `<svg viewBox="0 0 100 100" aria-hidden="true">
    <polygon class="wax" points="${points.join(" ")}"/>
    <circle class="rim" cx="50" cy="50" r="38.5"/>
    <circle class="beads" cx="50" cy="50" r="34"/>
    <path class="letter" d="M63.500 39.500a17.500 17.500 0 1 0 0 21"/>
    <path class="letter thin" d="M50 26v5M50 69v5M26 50h5"/>
  </svg>`;
  return holder;
}

// avatar shows a person's initials in a colour of their own, framed by their ministry's.
export function avatar(name, userId, house, small = false) {
  const words = name.trim().split(/\s+/);
  const initials = (words[0]?.[0] ?? "?") + (words.length > 1 ? words.at(-1)[0] : "");
  let hash = 7;
  for (const letter of userId) hash = (hash * 31 + letter.codePointAt(0)) % 360;
  return h("span.avatar", { class: small ? "small" : "", style: `--hue:${hash};--house:${house.accent}`, title: userId, "aria-hidden": "true" },
    initials.toUpperCase());
}

// houseTag names the ministry that somebody belongs to.
export function houseTag(house) {
  return h("span.house", { style: `--house:${house.accent}` }, house.short ?? house.name);
}

export const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

export function day(ms) {
  const date = new Date(ms);
  const today = new Date();
  const yesterday = new Date(today.getFullYear(), today.getMonth(), today.getDate() - 1);
  if (date.toDateString() === today.toDateString()) return "Today";
  if (date.toDateString() === yesterday.toDateString()) return "Yesterday";
  return date.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" });
}

// linked turns addresses in a text into links; everything else stays text.
export function linked(text) {
  return text.split(/(https?:\/\/[^\s<>"]+[^\s<>".,;:!?)])/g).map((part, i) =>
    i % 2 ? h("a", { href: part, target: "_blank", rel: "noopener noreferrer" }, part) : part);
}

export function toast(text) {
  const note = h("div.toast", text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), 6000);
}
