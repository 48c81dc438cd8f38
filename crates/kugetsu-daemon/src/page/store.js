// What the page knows of the daemon, and how it keeps up with it.

import { ApiError, get } from './api.js';
import { parts } from './dom.js';

const POLL = 2000;
const LISTS = 5000;
const WHOLE = 60000;
const LONGEST = 30000;
const PAGE = 1000;
/** States in which a session may change soon. */
const LIVELY = 'new,running,paused,blocked,lost';
const OPEN_TASKS = 'queued,running,parked';
/** As many waiting tasks as the page loads. */
const MOST_TASKS = 5000;

export const COLUMNS = [
  { id: 'needs', name: 'Needs you', plain: 'blocked', empty: 'Nothing needs you.' },
  { id: 'queued', name: 'Queued', plain: 'queued', empty: 'Nothing waits.' },
  { id: 'running', name: 'Running', plain: 'running', empty: 'Nothing runs.' },
  { id: 'done', name: 'Done', plain: 'completed', empty: 'Nothing is done yet.' },
  { id: 'failed', name: 'Failed', plain: 'failed', empty: 'Nothing has failed.' },
];

const COLUMN_OF = {
  blocked: 'needs', new: 'queued', queued: 'queued', running: 'running', paused: 'running', completed: 'done',
  aborted: 'done',
};

/** The column of a state. A state that the page does not know is shown where people look. */
export function columnOf(state) {
  return COLUMN_OF[state] ?? 'failed';
}

class Store extends EventTarget {
  status = null;
  query = null;
  /** Items of the board by key. */
  sessions = new Map();
  tasks = new Map();
  /** What each session's open tasks are, by address. */
  tasksOf = new Map();
  live = new Map();
  pending = new Map();
  actions = new Map();
  isComplete = false;
  trouble = null;

  #timer = 0;
  #failures = 0;
  #sessionsMark = '';
  #queueMark = '';
  #listed = 0;
  #listedWhole = 0;
  #running = false;
  #again = false;

  start() {
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible') this.refresh();
      else clearTimeout(this.#timer);
    });
    this.refresh();
  }

  /** Asks the daemon now. `lists`: also for the lists. */
  refresh(lists = false) {
    if (lists) this.#listed = -LISTS;
    if (this.#running) {
      this.#again = true;
      return;
    }
    clearTimeout(this.#timer);
    this.#tick();
  }

  async #tick() {
    this.#running = true;
    const began = performance.now();
    let wait;
    try {
      await this.#poll();
      this.#failures = 0;
      this.trouble = null;
      // A store that is slow to read is asked less often.
      wait = Math.min(LONGEST, Math.max(POLL, 4 * (performance.now() - began)));
    } catch (error) {
      if (!(error instanceof ApiError)) console.error(error);
      this.#failures += 1;
      wait = Math.min(LONGEST, POLL * 2 ** Math.min(this.#failures, 5));
      this.trouble = { error, next: Date.now() + wait };
    }
    this.#running = false;
    this.#tell('tick');
    if (this.#again) {
      this.#again = false;
      wait = 0;
    }
    if (document.visibilityState === 'visible') this.#timer = setTimeout(() => this.#tick(), wait);
  }

  #tell(type) {
    this.dispatchEvent(new Event(type));
  }

  async #poll() {
    const [status, query] = await Promise.all([allowed(get('/v1/status')), allowed(get('/v1/query'))]);
    this.status = status;
    this.query = query;
    this.live = by(query?.live);
    this.actions = by(query?.actions);
    this.pending = new Map();
    for (const request of query?.pending ?? []) {
      const known = this.pending.get(request.ref);
      if (known) known.push(request);
      else this.pending.set(request.ref, [request]);
    }
    this.#tell('summary');

    // Numbers that change whenever a session or a task has become another one.
    const sessionsMark = JSON.stringify([query?.sessions, query?.totals?.turns]);
    const queueMark = JSON.stringify(status?.queue);
    const now = performance.now();
    const first = this.#listedWhole === 0;
    const age = now - this.#listedWhole;
    const whole = first || age >= WHOLE || (sessionsMark !== this.#sessionsMark && age >= LISTS);
    if (!whole && queueMark === this.#queueMark && now - this.#listed < LISTS) return;
    await Promise.all([this.#loadSessions(whole, first), this.#loadTasks()]);
    this.#queueMark = queueMark;
    this.#listed = performance.now();
    if (whole) {
      this.#listedWhole = this.#listed;
      this.#sessionsMark = sessionsMark;
    }
    this.isComplete = true;
    this.#tell('lists');
  }

  async #loadSessions(whole, first) {
    const found = new Map();
    let after;
    do {
      const query = { limit: PAGE, after, state: whole ? undefined : LIVELY };
      const page = await get('/v1/sessions', query);
      for (const view of page.sessions) found.set(view.ref, this.#item(view));
      after = page.next;
      if (first && after) {
        this.sessions = new Map(found);
        this.#tell('lists');
      }
    } while (after);
    if (whole) {
      this.sessions = found;
    } else {
      for (const [ref, item] of found) this.sessions.set(ref, item);
    }
  }

  #item(view) {
    const known = this.sessions.get(view.ref);
    if (known && known.time === view.updated && known.state === view.state) return known;
    const title = view.issue_title ?? '';
    return {
      key: view.ref, ref: view.ref, repo: parts(view.ref).repo, state: view.state, column: columnOf(view.state),
      title, time: view.updated, at: Date.parse(view.updated), cost: view.totals?.cost_usd ?? 0, task: null,
      text: `${view.ref} ${title} ${view.state}`.toLowerCase(),
    };
  }

  async #loadTasks() {
    const found = new Map();
    const tasksOf = new Map();
    let before;
    do {
      const page = await allowed(get('/v1/tasks', { state: OPEN_TASKS, limit: PAGE, before }));
      for (const task of page?.tasks ?? []) {
        found.set(task.task, taskItem(task));
        const known = tasksOf.get(task.ref);
        if (known) known.push(task);
        else tasksOf.set(task.ref, [task]);
      }
      before = page?.next;
    } while (before && found.size < MOST_TASKS);
    this.tasks = found;
    this.tasksOf = tasksOf;
  }

  /** The items of each column that match the filter, in the order in which people want them. */
  columns(text, repo) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = (item) => (!repo || item.repo === repo) && words.every((word) => item.text.includes(word));
    const columns = Object.fromEntries(COLUMNS.map(({ id }) => [id, []]));
    for (const item of this.sessions.values()) {
      if (wanted(item)) columns[item.column].push(item);
    }
    for (const item of this.tasks.values()) {
      // The session of a task that runs is on the board already.
      if (item.state === 'running' && this.sessions.get(item.ref)?.column === 'running') continue;
      if (wanted(item)) columns[item.column].push(item);
    }
    columns.queued.sort((a, b) => (b.task?.priority ?? -101) - (a.task?.priority ?? -101) || a.at - b.at);
    columns.needs.sort((a, b) => a.at - b.at);
    for (const id of ['running', 'done', 'failed']) columns[id].sort((a, b) => b.at - a.at);
    return columns;
  }

  /** The open tasks of a session that wait or run. */
  waiting(ref) {
    return (this.tasksOf.get(ref) ?? []).filter((task) => task.state !== 'parked');
  }
}

function taskItem(task) {
  const time = task.started ?? task.submitted;
  return {
    key: task.task, ref: task.ref, repo: parts(task.ref).repo, state: task.state, column: columnOf(task.state),
    title: task.prompt, time, at: Date.parse(time), cost: task.cost_usd ?? 0, task,
    text: `${task.ref} ${task.prompt} ${task.state} ${task.task}`.toLowerCase(),
  };
}

function by(list) {
  return new Map((list ?? []).map((entry) => [entry.ref, entry]));
}

/** Null instead of what a token for some repositories does not show. */
function allowed(promise) {
  return promise.catch((error) => {
    if (error.status === 403) return null;
    throw error;
  });
}

export const store = new Store();
