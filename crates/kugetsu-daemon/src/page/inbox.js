// The inbox: what waits for a person.

import { requestForm, stateButtons, taskButtons } from './acts.js';
import { el, fill, keyed, number, parts, sessionHash, setText, when } from './dom.js';
import { columnOf, store } from './store.js';

const inbox = document.getElementById('inbox');
const badge = document.getElementById('inbox-count');
const PAGE = 40;
let most = PAGE;
let at = null;

function build() {
  at = {
    asked: el('ul', { class: 'plain cards' }), askedCount: el('span', { class: 'count' }),
    noneAsked: el('p', { class: 'empty' }, 'No agent asks anything.'),
    parked: el('ul', { class: 'plain cards tight' }), parkedCount: el('span', { class: 'count' }),
    parkedBlock: el('section', { class: 'block', hidden: true }),
    ended: el('ul', { class: 'plain cards tight' }), endedCount: el('span', { class: 'count' }),
    noneEnded: el('p', { class: 'empty' }, 'No session is blocked or has failed.'),
    broken: el('ul', { class: 'plain' }), brokenBlock: el('section', { class: 'block', hidden: true }),
    more: el('button', { type: 'button', hidden: true, on: {
      click: () => {
        most += 100;
        show();
      },
    } }, 'Show more'),
  };
  fill(at.parkedBlock, el('h3', {}, 'Parked tasks ', at.parkedCount), at.parked);
  fill(at.brokenBlock, el('h3', {}, 'Records that cannot be read'), at.broken);
  fill(inbox, el('h2', { id: 'inbox-name' }, 'Needs you'),
    el('section', { class: 'block' }, el('h3', {}, 'Questions ', at.askedCount), at.noneAsked, at.asked),
    at.parkedBlock,
    el('section', { class: 'block' }, el('h3', {}, 'Blocked and failed ', at.endedCount), at.noneEnded, at.ended, at.more),
    at.brokenBlock);
}

/** Counts what waits, and shows it if the inbox is open. */
export function update() {
  const count = (store.query?.pending?.length ?? 0) + parkedTasks().length;
  setText(badge, count ? number(count) : '');
  badge.hidden = count === 0;
  document.title = count ? `(${count}) kugetsu` : 'kugetsu';
  if (!inbox.hidden) show();
}

function parkedTasks() {
  const tasks = [...store.tasks.values()].map((item) => item.task).filter((task) => task.state === 'parked');
  return tasks.sort((a, b) => b.submitted.localeCompare(a.submitted));
}

export function show() {
  if (!at) build();
  // The API answers the first request of a session, so the others wait for their turn.
  const asked = [...store.pending.values()].map(([first]) => first).sort((a, b) => a.asked.localeCompare(b.asked));
  setText(at.askedCount, number(asked.length));
  at.noneAsked.hidden = asked.length > 0;
  keyed(at.asked, asked.slice(0, most), (request) => `${request.ref} ${request.request}`, askedCard);

  const parked = parkedTasks();
  at.parkedBlock.hidden = parked.length === 0;
  setText(at.parkedCount, number(parked.length));
  keyed(at.parked, parked.slice(0, most), (task) => JSON.stringify([task.task, task.reason]), parkedCard);

  const ended = (store.query?.actions ?? []).filter((action) =>
    ['needs', 'failed'].includes(columnOf(action.state)) && !store.pending.has(action.ref));
  ended.sort((a, b) => timeOf(b).localeCompare(timeOf(a)));
  setText(at.endedCount, number(ended.length));
  at.noneEnded.hidden = ended.length > 0;
  keyed(at.ended, ended.slice(0, most), (action) => JSON.stringify([action.ref, action.state, action.why, store.waiting(action.ref).length > 0]),
    endedCard);
  at.more.hidden = Math.max(asked.length, parked.length, ended.length) <= most;

  const broken = store.query?.broken ?? [];
  at.brokenBlock.hidden = broken.length === 0;
  keyed(at.broken, broken.slice(0, most), (one) => one.path, (one) => el('li', {}, el('code', {}, one.path), ' ', one.problem));
}

function timeOf(action) {
  return store.sessions.get(action.ref)?.time ?? '';
}

function link(ref) {
  const address = parts(ref);
  return el('a', { class: 'item', href: sessionHash(ref) }, el('span', { class: 'row-repo' }, address.short), address.name);
}

function titleOf(ref) {
  const title = store.sessions.get(ref)?.title;
  return title && el('p', { class: 'card-title' }, title.slice(0, 300));
}

function askedCard(request) {
  return el('li', { class: 'card card-needs' },
    el('div', { class: 'line' }, el('h4', { class: 'grow' }, link(request.ref)), el('span', { class: 'quiet' }, when(request.asked))),
    titleOf(request.ref), requestForm(request.ref, request));
}

function parkedCard(task) {
  return el('li', { class: 'card' },
    el('div', { class: 'line' }, el('h4', { class: 'grow' }, link(task.ref)),
      el('span', { class: 'state state-parked' }, 'parked'), el('span', { class: 'quiet' }, when(task.submitted))),
    el('p', { class: 'card-title' }, task.prompt.slice(0, 300)),
    task.reason && el('p', { class: 'why' }, task.reason.slice(0, 600)),
    el('div', { class: 'actions' }, taskButtons(task)));
}

function endedCard(action) {
  const time = timeOf(action);
  return el('li', { class: 'card' },
    el('div', { class: 'line' }, el('h4', { class: 'grow' }, link(action.ref)),
      el('span', { class: `state state-${action.state}` }, action.state), time && el('span', { class: 'quiet' }, when(time))),
    titleOf(action.ref),
    action.why && el('p', { class: 'why' }, action.why.slice(0, 600)),
    el('div', { class: 'actions' }, stateButtons(action.ref, action.state)));
}
