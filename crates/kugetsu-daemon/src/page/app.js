// The page of the daemon: views, keys, and what it says about the daemon itself.

import { problem, say, taskForm, tokenForm } from './acts.js';
import { logIn, logOut } from './api.js';
import * as board from './board.js';
import { ago, el, fill, money, number, setText } from './dom.js';
import * as inbox from './inbox.js';
import * as pool from './pool.js';
import * as session from './session.js';
import { store } from './store.js';

const views = { board: document.getElementById('board'), inbox: document.getElementById('inbox'), pool: document.getElementById('pool') };
const main = document.getElementById('main');
const pulse = document.getElementById('pulse');
const trouble = document.getElementById('trouble');
const keys = document.getElementById('keys');
const task = document.getElementById('task');
const narrow = matchMedia('(max-width: 62rem)');
const SINGLE_KEYS = 'kugetsu-single-keys';

// ---- views

let view = '';
/** The view under the panel of a session. */
let under = 'board';
let firstRoute = true;

function route() {
  const path = location.hash.replace(/^#\/?/, '');
  const [name, ...rest] = path.split('/');
  let ref = null;
  if (name === 'session') {
    try {
      ref = decodeURIComponent(rest.join('/'));
    } catch {
      ref = null;
    }
  }
  const wasOpen = view === 'session';
  if (ref) {
    // Beside the session is the board, as a list.
    show('board');
    document.body.classList.add('has-panel');
    view = 'session';
    board.setCompact(true);
    board.opened(ref);
    session.open(ref);
  } else {
    session.close();
    document.body.classList.remove('has-panel');
    view = name in views ? name : 'board';
    under = view;
    show(view);
    board.setCompact(narrow.matches);
    board.opened(null);
    if (view === 'inbox') inbox.show();
    if (view === 'pool') pool.show();
    if (wasOpen && view === 'board') board.focusList();
    else if (!firstRoute) main.focus({ preventScroll: true });
  }
  firstRoute = false;
  for (const link of document.querySelectorAll('.nav a')) {
    if (link.dataset.view === (view === 'session' ? under : view)) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const close = document.querySelector('.panel .close');
  close?.setAttribute('href', under === 'board' ? '#/' : `#/${under}`);
}

function show(name) {
  for (const [one, node] of Object.entries(views)) node.hidden = one !== name;
}

function closePanel() {
  location.hash = under === 'board' ? '#/' : `#/${under}`;
}

// ---- the daemon

function summary() {
  const { status, query } = store;
  if (status) {
    const today = query?.days?.findLast((one) => one.day === new Date().toISOString().slice(0, 10));
    const parts = [`${number(status.running)} of ${number(status.max_concurrent)} places`];
    if (status.waiting) parts.push(`${number(status.waiting)} wait`);
    parts.push(`${number(status.queue.queued)} queued`);
    if (today) parts.push(`${money(today.cost_usd)} today`);
    if (status.draining) parts.push('draining');
    setText(pulse, parts.join(' · '));
  }
  inbox.update();
  pool.update();
  session.update();
}

let troubleShown = '';
let countdown = 0;

function showTrouble() {
  const { trouble: now } = store;
  const kind = now ? `${now.error.status} ${now.error.message}` : '';
  document.body.classList.toggle('stale', Boolean(now));
  clearInterval(countdown);
  if (!now) {
    trouble.hidden = true;
    troubleShown = '';
    fill(trouble);
    return;
  }
  if (kind !== troubleShown) {
    troubleShown = kind;
    trouble.hidden = false;
    const asksToken = now.error.status === 401;
    const text = now.error.message.replace(/\.$/, '');
    fill(trouble,
      el('p', {}, el('strong', {}, `${text[0].toUpperCase()}${text.slice(1)}. `), store.status ? 'The page shows what it knew before. ' : ''),
      // An alert is read aloud when it changes, so what counts down is not part of it.
      el('p', { class: 'quiet', 'aria-hidden': 'true', id: 'countdown' }),
      asksToken ? el('p', { class: 'quiet' }, 'Run ', el('code', {}, 'kugetsu daemon open'), ' where the daemon runs, or enter a token.') : null,
      asksToken ? tokenForm() : null,
      el('button', { type: 'button', on: { click: () => store.refresh(true) } }, 'Try now'));
  }
  const count = () => {
    const seconds = Math.max(0, Math.ceil((now.next - Date.now()) / 1000));
    setText(document.getElementById('countdown'), `Next try in ${seconds} s.`);
  };
  count();
  countdown = setInterval(count, 1000);
}

// ---- dialogs

function openTask() {
  fill(task, el('h2', { id: 'task-name' }, 'New task'), taskForm(null, () => task.close()));
  task.showModal();
}

function usesSingleKeys() {
  return localStorage.getItem(SINGLE_KEYS) !== 'off';
}

function openKeys() {
  const list = [
    ['/', 'focus the filter'], ['j k ↓ ↑', 'move in a list'], ['h l', 'move to another column'], ['Enter', 'open'],
    ['Escape', 'close, or empty the filter'], ['b i p', 'board, needs you, queue and pool'], ['n', 'new task'],
    ['?', 'show the keys'],
  ];
  const box = el('input', { type: 'checkbox', prop: { checked: usesSingleKeys() } });
  box.addEventListener('change', () => localStorage.setItem(SINGLE_KEYS, box.checked ? 'on' : 'off'));
  fill(keys, el('h2', { id: 'keys-name' }, 'Keys'),
    el('dl', { class: 'keys' }, list.map(([key, what]) => el('div', {},
      el('dt', {}, key.split(' ').map((one) => [el('kbd', {}, one), ' '])), el('dd', {}, what)))),
    el('label', { class: 'check' }, box, ' Single letters are keys of the page'),
    el('div', { class: 'actions' },
      el('button', { type: 'button', on: { click: () => keys.close() } }, 'Close'),
      el('button', { type: 'button', on: { click: leave } }, 'Log out')));
  keys.showModal();
}

// ---- login

/** Logs out, and asks again, so that nothing stays on the page. */
async function leave() {
  try {
    await logOut();
    location.reload();
  } catch (error) {
    say(problem(error), true);
  }
}

/** Uses the link that has opened the page, and takes it out of the history. */
async function enter() {
  const code = /^#code=(\w+)$/.exec(location.hash)?.[1];
  if (!code) return;
  history.replaceState(null, '', location.pathname);
  try {
    await logIn(code);
  } catch (error) {
    say(problem(error), true);
  }
}

// ---- keys

function isTyping(target) {
  return target.closest('textarea, select, input:not([type=checkbox]):not([type=radio])') !== null;
}

/** Moves among the links of a view that is not the board. */
function moveItem(by) {
  const items = [...document.querySelectorAll('.page:not([hidden]) a.item')];
  if (!items.length) return;
  const at = items.indexOf(document.activeElement);
  const near = at >= 0 ? at + by : by > 0 ? 0 : items.length - 1;
  items[Math.min(items.length - 1, Math.max(0, near))].focus();
}

function move(by) {
  if (view === 'inbox' || view === 'pool') moveItem(by);
  else board.move(by);
}

function key(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  const typing = isTyping(event.target);
  if (event.key === 'Escape') {
    if (typing && event.target.id !== 'filter-text') event.target.blur();
    else if (event.target.id === 'filter-text' && board.clearFilter()) event.preventDefault();
    else if (view === 'session') closePanel();
    else if (typing) event.target.blur();
    else board.clearFilter();
    return;
  }
  if (typing || !usesSingleKeys()) return;
  const inScroller = event.target.closest('.log, .scroll, [role=tablist]') !== null;
  const acts = {
    '/': () => {
      if (view !== 'board' && view !== 'session') location.hash = '#/';
      // The board is shown first.
      requestAnimationFrame(() => board.focusFilter());
    },
    '?': openKeys,
    j: () => move(1), k: () => move(-1), h: () => board.moveColumn(-1), l: () => board.moveColumn(1),
    n: openTask,
    b: () => { location.hash = '#/'; }, i: () => { location.hash = '#/inbox'; }, p: () => { location.hash = '#/pool'; },
  };
  if (!inScroller && (event.target === document.body || event.target === main || event.target.classList.contains('item'))) {
    acts.ArrowDown = acts.j;
    acts.ArrowUp = acts.k;
  }
  if (!Object.hasOwn(acts, event.key)) return;
  event.preventDefault();
  acts[event.key]();
}

// ---- start

board.start();
document.addEventListener('keydown', key);
document.getElementById('new-task').addEventListener('click', openTask);
document.getElementById('show-keys').addEventListener('click', openKeys);
document.getElementById('skip').addEventListener('click', () => main.focus());
addEventListener('hashchange', route);
narrow.addEventListener('change', () => board.setCompact(narrow.matches || view === 'session'));
store.addEventListener('summary', summary);
store.addEventListener('lists', () => {
  if (view === 'session') board.opened(decodeURIComponent(location.hash.replace(/^#\/?session\//, '')));
  inbox.update();
  pool.update();
  session.update();
});
store.addEventListener('tick', () => {
  showTrouble();
  for (const time of document.querySelectorAll('time')) setText(time, ago(time.dateTime));
});
await enter();
route();
store.start();
