// The board: sessions and tasks in columns by state. Where there is no room for all columns, they are tabs.

import { ago, el, money, parts, sessionHash, setText, span } from './dom.js';
import { VirtualList } from './list.js';
import { COLUMNS, store } from './store.js';

const board = document.getElementById('board');
const text = document.getElementById('filter-text');
const repo = document.getElementById('filter-repo');
const said = document.getElementById('filter-said');
const tabs = document.getElementById('tabs');
const place = document.getElementById('columns');

let columns = [];
let chosenTab = 'running';
let tabWasChosen = false;
let isCompact = false;
let openRef = null;
let total = 0;

/** Builds the board. */
export function start() {
  columns = COLUMNS.map(column);
  tabs.append(...columns.map((one) => one.tab));
  place.append(...columns.map((one) => one.node));
  document.getElementById('filter').addEventListener('submit', (event) => {
    event.preventDefault();
    focusList();
  });
  let typed = 0;
  text.addEventListener('input', () => {
    clearTimeout(typed);
    typed = setTimeout(show, 60);
  });
  text.addEventListener('keydown', (event) => {
    if (event.key !== 'ArrowDown') return;
    event.preventDefault();
    focusList();
  });
  repo.addEventListener('change', show);
  tabs.addEventListener('keydown', tabKey);
  store.addEventListener('lists', show);
  store.addEventListener('tick', () => columns.forEach(({ list }) => list.refresh()));
}

function column({ id, name, plain, empty }) {
  const count = el('span', { class: 'count' });
  const list = new VirtualList({
    id: `list-${id}`, label: name, make: () => row(plain), open: (item) => item && open(item),
  });
  const nothing = el('p', { class: 'empty' }, empty);
  const node = el('section', { class: `column column-${id}`, id: `column-${id}`, 'aria-labelledby': `name-${id}` },
    el('h3', { class: 'column-name', id: `name-${id}` }, el('span', { class: `mark mark-${id}` }), name, ' ', count),
    nothing, list.node);
  const tabCount = el('span', { class: 'count' });
  const tab = el('button', {
    type: 'button', role: 'tab', id: `tab-${id}`, class: `tab tab-${id}`, 'aria-controls': `column-${id}`,
    on: { click: () => choose(id, true) },
  }, el('span', {}, name), ' ', tabCount);
  list.node.addEventListener('focus', () => choose(id, true));
  return { id, node, list, count, nothing, empty, tab, tabCount, items: [] };
}

/** A row, which is used for many items. */
function row(plain) {
  const place = el('span', { class: 'row-repo' });
  const name = el('span', { class: 'row-name' });
  const age = el('span', { class: 'row-age' });
  const state = el('span', { class: 'state' });
  const title = el('span', { class: 'row-title' });
  const cost = el('span', { class: 'row-cost' });
  const node = el('div', { class: 'row-in' },
    el('div', { class: 'row-line' }, el('span', { class: 'row-ref' }, place, name), ' ', age),
    el('div', { class: 'row-line' }, state, ' ', title, ' ', cost));
  let shown = null;
  const show = (item) => {
    const isOther = item !== shown;
    shown = item;
    if (isOther) {
      const address = parts(item.ref);
      setText(place, address.short);
      setText(name, address.name);
      state.className = `state state-${item.state}`;
      setText(cost, item.cost ? money(item.cost) : '');
    }
    const stateName = item.state === plain ? '' : item.state;
    setText(state, stateName);
    state.hidden = !stateName;
    setText(age, ago(item.time));
    const line = lineOf(item);
    if (title.dataset.line !== line) {
      title.dataset.line = line;
      setText(title, line.slice(0, 300));
    }
  };
  return { node, show };
}

/** The second line of a row. */
function lineOf(item) {
  if (item.task) {
    const { reason, not_before: later } = item.task;
    const wait = later && Date.parse(later) > Date.now() ? `in ${span(Date.parse(later) - Date.now())}: ` : '';
    return item.state === 'parked' && reason ? `${reason}: ${item.title}` : wait + item.title;
  }
  const live = store.live.get(item.ref);
  if (live && item.column === 'running') {
    const at = [live.stale ? 'no sign of life' : '', `step ${live.current_step}`, live.tool ?? ''];
    return [...at.filter(Boolean), item.title].filter(Boolean).join(' · ');
  }
  const asked = item.column === 'needs' && store.pending.get(item.ref)?.[0];
  if (asked) return asks(asked);
  if (item.column === 'failed' || item.column === 'needs') return [store.actions.get(item.ref)?.why, item.title].filter(Boolean).join(' · ');
  return item.title;
}

function asks({ detail }) {
  if (Array.isArray(detail)) return detail.map((question) => question.question).join(' ');
  return `${detail?.permission ?? 'permission'}: ${(detail?.patterns ?? []).join(', ')}`;
}

function open(item) {
  location.hash = sessionHash(item.ref);
}

function show() {
  const found = store.columns(text.value, repo.value);
  const isFiltered = text.value.trim() !== '' || repo.value !== '';
  let matching = 0;
  for (const one of columns) {
    one.items = found[one.id];
    matching += one.items.length;
    one.list.set(one.items);
    setText(one.count, one.items.length.toLocaleString('en'));
    setText(one.tabCount, one.items.length.toLocaleString('en'));
    setText(one.nothing, store.sessions.size === 0 && !store.isComplete ? 'The page loads.' : isFiltered
      ? 'Nothing here matches the filter.' : one.empty);
    one.nothing.hidden = one.items.length > 0;
  }
  total = store.sessions.size + store.tasks.size;
  setText(said, isFiltered ? `${matching.toLocaleString('en')} of ${total.toLocaleString('en')}` : '');
  showRepos();
  if (!tabWasChosen) {
    const first = ['needs', 'running', 'queued', 'failed', 'done'].find((id) => found[id].length);
    choose(first ?? 'running');
  }
}

function showRepos() {
  const names = new Set((store.query?.repositories ?? []).map((one) => one.repo));
  for (const item of store.tasks.values()) names.add(item.repo);
  if (!store.query) for (const item of store.sessions.values()) names.add(item.repo);
  if (repo.value) names.add(repo.value);
  const sorted = [...names].sort();
  if (sorted.join(' ') === repo.dataset.names) return;
  repo.dataset.names = sorted.join(' ');
  const { value } = repo;
  repo.replaceChildren(repo.options[0], ...sorted.map((name) => el('option', { value: name }, name)));
  repo.value = value;
}

// ---- columns as tabs

/** Shows all columns, or one of them with tabs for the others. */
export function setCompact(compact) {
  isCompact = compact;
  board.classList.toggle('compact', compact);
  tabs.hidden = !compact;
  if (compact) tabs.setAttribute('role', 'tablist');
  for (const one of columns) {
    if (compact) one.node.setAttribute('role', 'tabpanel');
    else one.node.removeAttribute('role');
    one.node.setAttribute('aria-labelledby', compact ? `tab-${one.id}` : `name-${one.id}`);
  }
  choose(chosenTab);
}

function choose(id, byPerson = false) {
  chosenTab = id;
  tabWasChosen ||= byPerson;
  for (const one of columns) {
    const isChosen = one.id === id;
    one.tab.setAttribute('aria-selected', String(isChosen));
    one.tab.tabIndex = isChosen ? 0 : -1;
    one.node.hidden = isCompact && !isChosen;
    if (isChosen) {
      one.list.refresh();
      if (isCompact) one.tab.scrollIntoView({ block: 'nearest', inline: 'nearest' });
    }
  }
}

function tabKey(event) {
  const at = columns.findIndex((one) => one.id === chosenTab);
  const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: columns.length - 1 };
  if (event.key === 'ArrowDown') {
    focusList();
  } else if (event.key in moves) {
    const to = columns[(moves[event.key] + columns.length) % columns.length];
    choose(to.id, true);
    to.tab.focus();
  } else {
    return;
  }
  event.preventDefault();
}

// ---- for the keys of the page

/** Marks the session that is open, and shows its column. */
export function opened(ref) {
  if (ref !== openRef) {
    const owners = columns.filter((one) => one.items.some((item) => item.ref === ref));
    const own = owners.find((one) => one.list.node === document.activeElement)
      ?? owners.find((one) => one.id === store.sessions.get(ref)?.column) ?? owners[0];
    if (own) choose(own.id, true);
    // A session that is not loaded yet is looked for again.
    openRef = own || !ref ? ref : null;
  }
  columns.forEach(({ list }) => list.choose(ref));
}

function current() {
  return columns.find(({ list }) => list.node === document.activeElement)
    ?? columns.find((one) => one.id === chosenTab && (isCompact || one.items.length > 0))
    ?? columns.find((one) => one.items.length > 0);
}

export function focusFilter() {
  text.focus();
  text.select();
}

export function focusList() {
  const one = current();
  if (one?.items.length) one.list.focus();
}

/** Moves in the list that has the focus, or focuses one. */
export function move(by) {
  const one = current();
  if (!one?.items.length) return;
  const has = document.activeElement === one.list.node;
  one.list.focus();
  if (has) one.list.move(by);
}

/** Moves to the next column with items. */
export function moveColumn(by) {
  const at = columns.indexOf(current());
  for (let step = 1; step <= columns.length; step += 1) {
    const one = columns[(at + by * step + columns.length * step) % columns.length];
    if (!one.items.length) continue;
    choose(one.id, true);
    one.list.focus();
    return;
  }
}

/** Empties the filter; false if it is empty already. */
export function clearFilter() {
  if (!text.value && !repo.value) return false;
  text.value = '';
  repo.value = '';
  show();
  return true;
}
