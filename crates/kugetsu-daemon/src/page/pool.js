// The queue, the servers, and what all of it costs.

import { taskButtons } from './acts.js';
import { ago, bytes, el, fill, full, keyed, money, number, parts, plural, sessionHash, setText, short, span, tail, tokenTotal, when } from './dom.js';
import { dayPlot } from './plot.js';
import { showFacts, table } from './session.js';
import { store } from './store.js';

const pool = document.getElementById('pool');
const MOST = 200;
let at = null;

function build() {
  const body = () => el('tbody', {});
  at = {
    gauge: el('div', { class: 'gauge' }), facts: el('dl', { class: 'facts' }),
    tasks: body(), taskCount: el('span', { class: 'count' }), noTasks: el('p', { class: 'empty' }, 'No task waits or runs.'),
    servers: body(), noServers: el('p', { class: 'empty' }, 'No server is warm.'),
    repos: body(), days: el('div', {}), more: el('p', { class: 'quiet', hidden: true }),
  };
  const filled = (name, heads, rows) => {
    const node = table(name, heads, []);
    node.querySelector('tbody').replaceWith(rows);
    return node;
  };
  at.taskTable = filled('Tasks', ['Task', 'State', 'Session', 'Prompt', 'Priority', 'Submitted', 'Tries', 'Action'], at.tasks);
  at.serverTable = filled('Servers', ['Server', 'State', 'Turn', 'Turns', 'Memory', 'Since', 'Process', 'Folder'], at.servers);
  at.repoTable = filled('Repositories', ['Repository', 'Sessions', 'Turns', 'Tokens', 'Cost'], at.repos);
  fill(pool, el('h2', { id: 'pool-name' }, 'Queue and pool'),
    el('section', { class: 'block' }, el('h3', {}, 'Places'), at.gauge, at.facts),
    el('section', { class: 'block' }, el('h3', {}, 'Tasks ', at.taskCount), at.noTasks, at.taskTable, at.more),
    el('section', { class: 'block' }, el('h3', {}, 'Servers'), at.noServers, at.serverTable),
    el('section', { class: 'block' }, el('h3', {}, 'Cost per day'), at.days),
    el('section', { class: 'block' }, el('h3', {}, 'Repositories'), at.repoTable));
}

/** Shows what the store has learnt, if this view is open. */
export function update() {
  if (!pool.hidden) show();
}

export function show() {
  if (!at) build();
  const { status, query } = store;
  if (!status) return;
  showPlaces(status, query);
  showTasks();
  showServers(status);
  showCosts(query);
}

function showPlaces(status, query) {
  const places = Math.max(status.max_concurrent, status.running);
  const shown = Math.min(places, 64);
  const mark = `${status.running}/${places}`;
  if (at.gauge.dataset.mark !== mark) {
    at.gauge.dataset.mark = mark;
    fill(at.gauge, Array.from({ length: shown }, (_, index) =>
      el('span', { class: index < status.running ? 'place taken' : 'place', 'aria-hidden': 'true' })),
    el('span', { class: 'gauge-text' }, `${number(status.running)} of ${plural(status.max_concurrent, 'place')} taken`));
  }
  const { queue, pool: counts } = status;
  const starts = counts.cold_starts + counts.warm_starts;
  const facts = [
    ['Commands that wait', number(status.waiting)],
    ['Tasks', `${number(queue.queued)} queued, ${number(queue.running)} running, ${number(queue.parked)} parked`],
    queue.oldest && ['Oldest queued task', ago(queue.oldest)],
    ['Turns with a warm server', starts ? `${number(counts.warm_starts)} of ${number(starts)}` : 'none yet'],
    query && ['All sessions', `${number(query.sessions.total)}, ${plural(query.totals.turns, 'turn')}, ${money(query.totals.cost_usd)}`],
    ['Daemon', `kugetsu ${status.version}, process ${status.pid}, up for ${span(Date.now() - Date.parse(status.started))}${status.draining ? ', draining' : ''}`],
    ['Listens on', [status.listen, status.socket].filter(Boolean).join(' and ')],
  ];
  showFacts(at.facts, facts);
}

function showTasks() {
  const order = { running: 0, queued: 1, parked: 2 };
  const tasks = [...store.tasks.values()].map((item) => item.task).sort((a, b) =>
    order[a.state] - order[b.state] || b.priority - a.priority || a.submitted.localeCompare(b.submitted));
  setText(at.taskCount, number(tasks.length));
  at.noTasks.hidden = tasks.length > 0;
  at.taskTable.hidden = tasks.length === 0;
  at.more.hidden = tasks.length <= MOST;
  setText(at.more, `${number(tasks.length - MOST)} more tasks wait.`);
  keyed(at.tasks, tasks.slice(0, MOST), (task) => JSON.stringify([task.task, task.state, task.attempts, task.reason]), (task) => el('tr', {},
    el('td', { title: task.task }, el('code', {}, tail(task.task))),
    el('td', {}, el('span', { class: `state state-${task.state}` }, task.state)),
    el('td', {}, link(task.ref)),
    el('td', { class: 'wide' }, [task.reason, task.prompt].filter(Boolean).join(': ').slice(0, 200)),
    el('td', { class: 'num' }, number(task.priority)),
    el('td', {}, when(task.submitted)),
    el('td', { class: 'num' }, number(task.attempts)),
    el('td', {}, el('div', { class: 'actions' }, taskButtons(task)))));
}

function link(ref) {
  const address = parts(ref);
  return el('a', { class: 'item', href: sessionHash(ref) }, el('span', { class: 'row-repo' }, address.short), address.name);
}

function showServers(status) {
  const owners = new Map([...store.live.values()].map((one) => [one.turn, one.ref]));
  at.noServers.hidden = status.servers.length > 0;
  at.serverTable.hidden = status.servers.length === 0;
  keyed(at.servers, status.servers, (one) => JSON.stringify([one.server, one.state, one.turn, one.turns, one.memory_bytes, one.pid]), (one) => el('tr', {},
    el('td', { title: one.server }, el('code', {}, tail(one.server))),
    el('td', {}, el('span', { class: `state state-${one.state}` }, one.state)),
    el('td', {}, owners.has(one.turn) ? link(owners.get(one.turn)) : one.turn ? el('code', {}, tail(one.turn)) : '–'),
    el('td', { class: 'num' }, number(one.turns)),
    el('td', { class: 'num' }, bytes(one.memory_bytes)),
    el('td', { title: full(one.since) }, when(one.since)),
    el('td', { class: 'num' }, one.pid ?? '–'),
    el('td', { class: 'wide' }, el('code', {}, one.directory ?? '–'))));
}

function showCosts(query) {
  const days = query?.days ?? [];
  const mark = JSON.stringify(days.slice(-60).map((one) => [one.day, one.cost_usd]));
  if (at.days.dataset.mark !== mark) {
    at.days.dataset.mark = mark;
    fill(at.days, days.length ? dayPlot(days) : el('p', { class: 'empty' }, 'No turn has ended yet.'));
  }
  const repos = [...(query?.repositories ?? [])].sort((a, b) => b.cost_usd - a.cost_usd);
  keyed(at.repos, repos.slice(0, MOST), (one) => JSON.stringify([one.repo, one.sessions, one.turns, one.cost_usd]), (one) => el('tr', {},
    el('td', {}, one.repo), el('td', { class: 'num' }, number(one.sessions)), el('td', { class: 'num' }, number(one.turns)),
    el('td', { class: 'num' }, short(tokenTotal(one.tokens))), el('td', { class: 'num' }, money(one.cost_usd))));
}
