// Elements, texts and formats. Every text that the page shows goes through `clean`, and becomes a text node: nothing
// that an agent, an issue or a model wrote is ever read as markup.

const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

const NAMES = new Map([[0, 'NUL'], [7, 'BEL'], [8, 'BS'], [13, 'CR'], [27, 'ESC'], [127, 'DEL']]);

function mark(char) {
  const code = char.codePointAt(0);
  if (NAMES.has(code)) return `\u27e8${NAMES.get(code)}\u27e9`;
  return `\u27e8U+${code.toString(16).toUpperCase().padStart(4, '0')}\u27e9`;
}

/** The text with control characters and characters that reorder or hide text made visible. */
export function clean(text) {
  const whole = String(text ?? '');
  const formed = whole.toWellFormed ? whole.toWellFormed() : whole;
  return formed.replace(/\r\n/g, '\n').replace(HIDDEN, mark);
}

/** An element. `props`: `class`, `on` (listeners), `prop` (properties), and attributes. */
export function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'on') {
      for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    } else if (name === 'prop') {
      Object.assign(node, value);
    } else {
      node.setAttribute(name, value === true ? '' : clean(value));
    }
  }
  add(node, children);
  return node;
}

function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(clean(child)));
  }
}

/** Replaces what is in an element. */
export function fill(node, ...children) {
  node.replaceChildren();
  add(node, children);
  return node;
}

/** Sets the text of an element, and touches it only if the text is another one. */
export function setText(node, text) {
  const cleaned = clean(text);
  if (node.textContent !== cleaned) node.textContent = cleaned;
}

/** An element of SVG. */
export function svg(tag, attributes, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes ?? {})) node.setAttribute(name, clean(value));
  add(node, children);
  return node;
}

/**
 * Updates the children of a list by key. Elements that stay are not touched, so they keep focus and state. The focus of
 * an element that goes moves to what has replaced it, or to its neighbour.
 */
export function keyed(parent, entries, keyOf, make, update) {
  const known = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  const made = new Set();
  let at = parent.firstElementChild;
  for (const entry of entries) {
    const key = keyOf(entry);
    let node = known.get(key);
    if (node) {
      known.delete(key);
      update?.(node, entry);
    } else {
      node = make(entry);
      node.dataset.key = key;
      made.add(node);
    }
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
  for (const node of known.values()) {
    const before = node.previousElementSibling;
    const near = made.has(before) ? before : node.nextElementSibling ?? before;
    const had = node.contains(document.activeElement);
    node.remove();
    if (had) near?.querySelector('a, button')?.focus();
  }
}

// ---- addresses

/** The parts of an address: the repository without its forge, and what follows. */
export function parts(ref) {
  const at = ref.search(/[#~]/);
  const repo = at < 0 ? ref : ref.slice(0, at);
  const slash = repo.indexOf('/');
  return { repo, short: repo.slice(slash + 1), name: at < 0 ? '' : ref.slice(at) };
}

/** The address in short. */
export function shortRef(ref) {
  const { short, name } = parts(ref);
  return short + name;
}

/** The hash of the page of a session. */
export function sessionHash(ref) {
  return `#/session/${encodeURIComponent(ref)}`;
}

/** The address of the issue in a browser; null if the session has none. */
export function issueUrl(ref) {
  const found = /^([a-z0-9.:-]+(?:\/[a-z0-9._~-]+)+)#([0-9]+)(?:\/|$)/i.exec(ref);
  return found ? `https://${found[1]}/issues/${found[2]}` : null;
}

// ---- formats

const counts = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat('en');
// Swedish writes a time as 2026-01-31 23:59:59.
const moment = new Intl.DateTimeFormat('sv-SE', {
  year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit', minute: '2-digit', second: '2-digit',
  hourCycle: 'h23',
});

export function number(value) {
  return whole.format(value ?? 0);
}

export function short(value) {
  return (value ?? 0) < 10000 ? whole.format(value ?? 0) : counts.format(value);
}

export function money(usd) {
  const value = Number(usd ?? 0);
  if (value === 0) return '$0';
  if (value < 0.01) return '<$0.01';
  return `$${value < 100 ? value.toFixed(2) : whole.format(Math.round(value))}`;
}

export function bytes(value) {
  if (value === undefined || value === null) return '–';
  return value < 2 ** 30 ? `${Math.round(value / 2 ** 20)} MiB` : `${(value / 2 ** 30).toFixed(1)} GiB`;
}

export function tokenTotal(tokens) {
  const t = tokens ?? {};
  return (t.input ?? 0) + (t.output ?? 0) + (t.reasoning ?? 0) + (t.cache_read ?? 0) + (t.cache_write ?? 0);
}

/** A duration in its largest unit, or two of them. */
export function span(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} d`;
}

/** How long ago a time is, in one unit. */
export function ago(time) {
  const seconds = Math.floor((Date.now() - Date.parse(time)) / 1000);
  if (!Number.isFinite(seconds)) return '';
  if (seconds < 5) return 'now';
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** A time of a list: how long ago, with the whole time as a tooltip. */
export function when(time) {
  return el('time', { datetime: time, title: full(time) }, ago(time));
}

export function full(time) {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? '' : moment.format(date);
}

/** One of something, or several. */
export function plural(count, one, several = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : several}`;
}

/** The end of a UUID v7, which is what tells two of them apart. */
export function tail(id) {
  return String(id ?? '').slice(-8);
}
