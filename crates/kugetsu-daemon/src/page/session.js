// The panel of one session.

import { problem, requestForm, stateButtons, taskButtons, taskForm } from './acts.js';
import { get, sessionPath } from './api.js';
import {
  ago, el, fill, full, issueUrl, keyed, money, number, parts, plural, setText, short, span, tail, tokenTotal, when,
} from './dom.js';
import { costPlot } from './plot.js';
import { store } from './store.js';
import { TurnView } from './stream.js';

const panel = document.getElementById('session');
const RECORD = 5000;
const DIFF = 30000;
const TURNS = 25;

let shown = null;

/** Opens the panel of a session. */
export function open(ref) {
  if (shown?.ref === ref) return;
  close();
  shown = new Panel(ref);
  panel.hidden = false;
  panel.scrollTop = 0;
  document.getElementById('session-name').focus();
}

/** Closes the panel; false if it is not open. */
export function close() {
  if (!shown) return false;
  shown.end();
  shown = null;
  panel.hidden = true;
  fill(panel);
  return true;
}

/** Shows what the store has learnt. */
export function update() {
  shown?.update();
}

class Panel {
  ref;
  #ended = false;
  #record = null;
  #turns = null;
  #missing = null;
  #asked = 0;
  #diffAsked = 0;
  #readsDiff = false;
  #most = TURNS;
  #newest = null;
  #picked = null;
  #mark = '';
  #view;
  #at = {};

  constructor(ref) {
    this.ref = ref;
    this.#view = new TurnView(ref);
    const at = this.#at;
    const address = parts(ref);
    const link = issueUrl(ref);
    at.state = el('span', { class: 'state' });
    at.title = el('p', { class: 'session-title' });
    at.actions = el('div', { class: 'actions' });
    at.facts = el('dl', { class: 'facts' });
    at.note = el('p', { class: 'session-note', hidden: true });
    at.requests = el('div', {});
    at.tasks = el('ul', { class: 'plain' });
    at.tasksBlock = block('Tasks', at.tasks);
    at.turnName = el('h3', { id: 'turn-name' }, 'Newest turn');
    at.back = el('button', { type: 'button', hidden: true, on: { click: () => this.#pick(null) } }, 'Newest turn');
    at.prompt = el('details', { class: 'prompt', hidden: true });
    at.files = el('div', { class: 'files' });
    at.cost = el('div', {});
    at.turns = el('div', {});
    at.details = el('dl', { class: 'facts' });
    fill(panel,
      el('header', { class: 'panel-top' },
        el('h2', { id: 'session-name', tabindex: '-1' }, el('span', { class: 'row-repo' }, address.short), address.name),
        at.state,
        el('a', { class: 'close', href: '#/', 'aria-label': 'Close the session' }, 'Close')),
      el('div', { class: 'panel-in' },
        at.title,
        link && el('p', { class: 'quiet' }, el('a', { href: link, target: '_blank', rel: 'noopener noreferrer' }, link)),
        at.note, at.actions, at.requests, at.facts,
        el('section', { 'aria-labelledby': 'turn-name' },
          el('div', { class: 'block-top' }, at.turnName, at.back), at.prompt, this.#view.node),
        block('Submit a task', taskForm(ref)),
        at.tasksBlock,
        block('Changed files', at.files), block('Cost', at.cost), block('Turns', at.turns),
        block('Details', at.details)));
    fill(at.files, el('p', { class: 'quiet' }, 'The page asks git.'));
    this.update();
  }

  end() {
    this.#ended = true;
    this.#view.stop();
  }

  update() {
    if (this.#ended) return;
    const item = store.sessions.get(this.ref);
    const live = store.live.get(this.ref);
    // The marks of everything that makes the record another one.
    const mark = JSON.stringify([item?.state, item?.time, live?.turn, live?.state, store.waiting(this.ref).length]);
    const late = performance.now() - this.#asked > RECORD && (live || !this.#record);
    if (mark !== this.#mark || late) {
      this.#mark = mark;
      this.#read();
    }
    this.#draw();
  }

  async #read() {
    this.#asked = performance.now();
    try {
      const record = await get(sessionPath(this.ref));
      if (this.#ended) return;
      const isNew = !this.#turns || record.totals.turns !== this.#record?.totals?.turns;
      this.#record = record;
      this.#missing = null;
      if (isNew) {
        const { turns } = await get(sessionPath(this.ref, '/turns'));
        if (this.#ended) return;
        this.#turns = turns;
        this.#drawTurns();
      }
      const newest = record.live?.turn ?? record.last?.turn ?? null;
      if (newest !== this.#newest) {
        this.#newest = newest;
        if (!this.#picked) this.#view.show(newest);
      }
      if (isNew || (record.live && performance.now() - this.#diffAsked > DIFF)) this.#readDiff();
    } catch (error) {
      if (this.#ended) return;
      this.#missing = error;
    }
    this.#draw();
  }

  async #readDiff() {
    if (this.#readsDiff) return;
    this.#readsDiff = true;
    this.#diffAsked = performance.now();
    let content;
    try {
      content = changes((await get(sessionPath(this.ref, '/diff'), {}, 60)).changes);
    } catch (error) {
      content = el('p', { class: 'quiet' }, `There is no list: ${problem(error)}.`);
    }
    this.#readsDiff = false;
    if (!this.#ended) fill(this.#at.files, content);
  }

  #pick(turn) {
    this.#picked = turn;
    this.#view.show(turn ?? this.#newest);
    this.#draw();
    this.#at.turnName.scrollIntoView({ block: 'start' });
    if (document.activeElement === document.body) this.#at.turnName.parentElement.querySelector('button')?.focus();
  }

  #draw() {
    const at = this.#at;
    const record = this.#record;
    const live = store.live.get(this.ref);
    const item = store.sessions.get(this.ref);
    const state = item?.state ?? record?.state ?? (store.waiting(this.ref).length ? 'queued' : '');
    setText(at.state, state);
    at.state.className = `state state-${state}`;
    setText(at.title, (item?.title || record?.issue_title || record?.title || '').slice(0, 1000));
    at.title.hidden = !at.title.textContent;
    this.#drawNote(state);

    const requests = store.pending.get(this.ref) ?? [];
    // A task without an answer would drop the question.
    const buttons = record && !requests.length ? JSON.stringify([state, store.waiting(this.ref).length > 0]) : '';
    if (at.actions.dataset.state !== buttons) {
      at.actions.dataset.state = buttons;
      const had = at.actions.contains(document.activeElement);
      fill(at.actions, buttons ? stateButtons(this.ref, state) : null);
      if (had) (at.actions.querySelector('button') ?? document.getElementById('session-name')).focus();
    }
    keyed(at.requests, requests.slice(0, 1), (request) => request.request, (request) => block('The agent asks', requestForm(this.ref, request)));
    this.#drawTasks();
    if (record) this.#drawFacts(record, live);

    const turn = this.#picked;
    setText(at.turnName, turn ? `Turn ${tail(turn)}` : live ? 'Newest turn, which runs' : 'Newest turn');
    at.back.hidden = !turn;
    const prompt = turn ? this.#turns?.find((one) => one.turn === turn)?.prompt : record?.live?.prompt ?? record?.last?.prompt;
    if (at.prompt.dataset.text !== (prompt ?? '')) {
      at.prompt.dataset.text = prompt ?? '';
      at.prompt.hidden = !prompt;
      fill(at.prompt, el('summary', {}, el('strong', {}, 'Prompt '), (prompt ?? '').slice(0, 160)), el('pre', { tabindex: '0', role: 'group', 'aria-label': 'Prompt' }, prompt ?? ''));
    }
  }

  #drawNote(state) {
    const at = this.#at;
    const last = this.#record?.last;
    let text = '';
    if (this.#missing?.status === 404) text = 'The session does not exist yet. It begins with its first task.';
    else if (this.#missing) text = `The session cannot be read: ${problem(this.#missing)}.`;
    else if (!store.pending.has(this.ref) && !['running', 'paused', 'completed', 'new', ''].includes(state)) {
      text = store.actions.get(this.ref)?.why || last?.reason || '';
      if (last?.retry_at) text += ` (not before ${full(last.retry_at)})`;
    }
    setText(at.note, text);
    at.note.hidden = !text;
  }

  #drawFacts(record, live) {
    const totals = record.totals;
    const tokens = totals.tokens;
    const facts = [];
    if (live) {
      facts.push(['Running', `${span(Date.now() - Date.parse(live.started))}, step ${live.current_step}${live.tool ? `, ${live.tool}` : ''}`],
        ['This turn', `${money(live.cost_usd)}, ${short(tokenTotal(live.tokens))} tokens`],
        ['Last sign of life', live.heartbeat ? `${ago(live.heartbeat)}${live.stale ? ', too long ago' : ''}` : 'none yet']);
    }
    facts.push(['Turns', number(totals.turns)], ['Cost', money(totals.cost_usd)],
      ['Tokens', `${short(tokenTotal(tokens))}: ${short(tokens.input)} in, ${short(tokens.output)} out, ${short(tokens.cache_read)} cached`]);
    const details = [['Updated', full(record.updated)], ['Created', full(record.created)],
      record.worktree && ['Branch', record.worktree.branch],
      ['Folder', record.directory], ['Policy', record.policy?.preset], record.sandbox && ['Sandbox', 'on'],
      ['opencode', [record.opencode, record.session].filter(Boolean).join(', ')]];
    showFacts(this.#at.facts, facts);
    showFacts(this.#at.details, details);
  }

  #drawTasks() {
    const tasks = store.tasksOf.get(this.ref) ?? [];
    this.#at.tasksBlock.hidden = tasks.length === 0;
    keyed(this.#at.tasks, tasks, (task) => `${task.task} ${task.state}`, (task) => el('li', { class: 'line' },
      el('span', { class: `state state-${task.state}` }, task.state),
      el('span', { class: 'grow one-line' }, task.reason ? `${task.reason}: ${task.prompt}` : task.prompt),
      el('span', { class: 'quiet' }, when(task.submitted)),
      el('span', { class: 'actions' }, taskButtons(task))));
  }

  #drawTurns() {
    const turns = this.#turns;
    if (!turns.length) {
      fill(this.#at.cost, el('p', { class: 'quiet' }, 'No turn has ended yet.'));
      fill(this.#at.turns, el('p', { class: 'quiet' }, 'No turn has ended yet.'));
      return;
    }
    fill(this.#at.cost, costPlot(turns));
    const newest = turns.slice(-this.#most).reverse();
    const rows = newest.map((turn) => el('tr', {},
      el('td', {}, el('button', {
        type: 'button', class: 'link', 'aria-label': `Show the events of the turn ${tail(turn.turn)}, ${turn.verdict}`,
        on: { click: () => this.#pick(turn.turn === this.#newest ? null : turn.turn) },
      }, tail(turn.turn))),
      el('td', {}, el('span', { class: `state state-${turn.verdict}` }, turn.verdict)),
      el('td', {}, when(turn.ended)),
      el('td', { class: 'num' }, span(Date.parse(turn.ended) - Date.parse(turn.started))),
      el('td', { class: 'num' }, number(turn.steps)),
      el('td', { class: 'num' }, number(turn.tool_calls)),
      el('td', { class: 'num' }, money(turn.cost_usd)),
      el('td', { class: 'wide' }, turn.reason || (turn.prompt ?? '').slice(0, 140))));
    fill(this.#at.turns,
      table('Turns, newest first', ['Turn', 'Verdict', 'Ended', 'Time', 'Steps', 'Tools', 'Cost', 'Reason or prompt'], rows),
      turns.length > this.#most && el('button', {
        type: 'button', on: {
          click: () => {
            this.#most += 100;
            this.#drawTurns();
          },
        },
      }, `Show more of ${plural(turns.length, 'turn')}`));
  }
}

function block(name, ...content) {
  return el('section', { class: 'block' }, el('h3', {}, name), content);
}

/** Shows names and values. What has no value is left out. */
export function showFacts(list, facts) {
  keyed(list, facts.filter((fact) => fact?.[1]), ([name]) => name,
    ([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value)),
    (node, [, value]) => setText(node.lastElementChild, value));
}

/** A table that scrolls on its own where it is too wide. */
export function table(name, heads, rows) {
  return el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': name }, el('table', {},
    el('thead', {}, el('tr', {}, heads.map((head) => el('th', { scope: 'col' }, head)))), el('tbody', {}, rows)));
}

function changes(found) {
  const files = found.files ?? [];
  const commits = found.commits ?? [];
  if (!found.file_count && !found.commit_count) return el('p', { class: 'quiet' }, 'Nothing has changed.');
  return el('div', {},
    el('p', { class: 'quiet' }, `${plural(found.file_count, 'file')}, `, el('span', { class: 'plus' }, `+${number(found.lines_added)}`), ' ',
      el('span', { class: 'minus' }, `−${number(found.lines_removed)}`), `, ${plural(found.commit_count, 'commit')}`),
    el('ul', { class: 'plain scroller', tabindex: '0', 'aria-label': 'Changed files' }, files.map((file) => el('li', { class: 'line' },
      el('code', { class: 'grow' }, file.path),
      file.added === undefined || file.added === null ? el('span', { class: 'quiet' }, 'binary') : [
        el('span', { class: 'plus num' }, `+${file.added}`), el('span', { class: 'minus num' }, `−${file.removed ?? 0}`)]))),
    found.file_count > files.length && el('p', { class: 'quiet' }, `${number(found.file_count - files.length)} more files`),
    commits.length > 0 && el('ul', { class: 'plain commits' }, commits.map((commit) => el('li', { class: 'line' },
      el('code', {}, commit.id.slice(0, 8)), el('span', { class: 'grow' }, commit.subject)))),
    found.commit_count > commits.length && el('p', { class: 'quiet' }, `${number(found.commit_count - commits.length)} more commits`));
}
