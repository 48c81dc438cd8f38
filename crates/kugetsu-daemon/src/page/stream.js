// The events of one turn as text and tools, while they come.

import { follow, leave, sessionPath } from './api.js';
import { clean, el, fill, full, money, setText, short, span, tokenTotal } from './dom.js';

/** As many blocks as stay on the page, and as much text as each may have. */
const MOST_BLOCKS = 400;
const MOST_TEXT = 60000;
const RETRY = 1000;
const LONGEST = 20000;

/** Shows a turn of a session in an element. */
export class TurnView {
  node;
  turn = null;
  #log;
  #note;
  #ref;
  #abort = null;
  #lastId = '';
  #blocks = new Map();
  #queue = [];
  #waits = false;
  #isOver = false;
  #left = 0;
  #failures = 0;
  #timer = 0;

  constructor(ref) {
    this.#ref = ref;
    this.#note = el('p', { class: 'quiet log-note' }, 'The page reads the events.');
    this.#log = el('div', { class: 'log', tabindex: '0', role: 'log', 'aria-live': 'off', 'aria-label': 'Events of the turn' });
    this.node = el('div', { class: 'turn-view' }, this.#log, this.#note);
  }

  /** Follows a turn from its first event, unless it is followed already. Without a turn, the newest. */
  show(turn) {
    if (this.#abort && turn === this.turn) return;
    this.stop();
    this.turn = turn;
    this.#lastId = '';
    this.#failures = 0;
    this.#reset();
    this.#follow();
  }

  stop() {
    clearTimeout(this.#timer);
    leave(this.#abort);
    this.#abort = null;
    this.#queue = [];
  }

  #reset() {
    this.#blocks.clear();
    this.#left = 0;
    this.#isOver = false;
    fill(this.#log);
  }

  async #follow() {
    const abort = new AbortController();
    this.#abort = abort;
    const query = this.turn ? `?turn=${encodeURIComponent(this.turn)}` : '';
    let problem = null;
    try {
      await follow(sessionPath(this.#ref, `/events${query}`), this.#lastId, abort, (events, id) => {
        if (abort !== this.#abort) return;
        this.#lastId = id;
        this.#failures = 0;
        this.#queue.push(...events);
        this.#soon();
      });
    } catch (error) {
      problem = error;
    }
    if (abort !== this.#abort) return;
    // What has come is shown before its end is judged.
    this.#draw();
    if (problem?.status >= 400 && problem.status < 500) {
      this.#say(problem.status === 404 ? 'The session has no turn yet.' : `The events cannot be read: ${problem.message}.`);
      return;
    }
    if (this.#isOver || (!problem && this.#failures >= 3)) {
      this.#say(this.#log.childElementCount ? '' : 'The turn has no events.');
      return;
    }
    // The connection was lost, or the turn died without a last event.
    this.#failures += 1;
    if (problem) this.#say('The connection to the daemon is lost. The page tries again.');
    this.#timer = setTimeout(() => this.#follow(), Math.min(LONGEST, RETRY * 2 ** (this.#failures - 1)));
  }

  #say(text) {
    setText(this.#note, text);
    this.#note.hidden = !text;
  }

  #soon() {
    if (this.#waits) return;
    this.#waits = true;
    const draw = () => {
      this.#waits = false;
      this.#draw();
    };
    // A tab in the background has no frames.
    if (document.visibilityState === 'visible') requestAnimationFrame(draw);
    else setTimeout(draw, 500);
  }

  #draw() {
    const events = this.#queue;
    if (!events.length) return;
    this.#queue = [];
    const log = this.#log;
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    for (const event of events) this.#event(event);
    while (log.childElementCount > MOST_BLOCKS) {
      const first = log.firstElementChild;
      this.#blocks.delete(first.dataset.id);
      first.remove();
      this.#left += 1;
    }
    if (this.#left) this.#say('The earliest events are left out. All of them: kugetsu logs.');
    else if (!this.#isOver) this.#say('');
    if (isAtEnd) log.scrollTop = log.scrollHeight;
  }

  #event(event) {
    switch (event.type) {
      case 'agent_start':
        if (this.#log.childElementCount) this.#reset();
        this.#add(el('p', { class: 'ev ev-edge' }, `The turn began ${full(event.time)} with opencode ${event.opencode} in ${event.directory}.`));
        break;
      case 'step_start':
        this.#add(el('p', { class: 'ev ev-step' }, `Step ${event.step}`));
        break;
      case 'message_start':
        this.#message(event);
        break;
      case 'message_update':
        this.#message(event).append(event.delta);
        break;
      case 'message_end':
        this.#message(event).set(event.text);
        break;
      case 'tool_execution_start':
      case 'tool_execution_update':
      case 'tool_execution_end':
        this.#tool(event);
        break;
      case 'request':
        this.#add(el('p', { class: 'ev ev-request' }, el('strong', {}, 'The agent asks: '), asked(event.detail)));
        break;
      case 'response':
        this.#add(el('p', { class: 'ev ev-request' }, el('strong', {}, `The answer (${event.by}): `), answered(event.answer)));
        break;
      case 'notice':
        this.#add(el('p', { class: `ev ev-notice ev-${event.level}` }, el('strong', {}, `${event.level}: `), event.message));
        break;
      case 'step_end':
        this.#add(el('p', { class: 'ev ev-cost' },
          `${money(event.cost_usd)} · ${short(tokenTotal(event.tokens))} tokens`,
          ['tool-calls', 'stop'].includes(event.reason) ? '' : ` · ${event.reason}`));
        break;
      case 'agent_end':
        this.#isOver = true;
        this.#add(el('p', { class: 'ev ev-edge' },
          el('span', { class: `state state-${event.verdict}` }, event.verdict),
          ` after ${span(event.duration_ms)}, ${event.steps} steps, ${event.tool_calls} tool calls, ${money(event.cost_usd)}`,
          event.reason ? `: ${event.reason}` : ''));
        break;
      default:
        this.#add(el('p', { class: 'ev ev-notice' }, `An event that this page does not know: ${event.type}`));
    }
  }

  #add(node, id = '') {
    node.dataset.id = id;
    this.#log.append(node);
    return node;
  }

  #message({ message, reasoning }) {
    const id = `m:${message}`;
    const known = this.#blocks.get(id);
    if (known) return known;
    const text = document.createTextNode('');
    const body = el('div', { class: 'ev-text' }, text);
    const node = reasoning
      ? el('details', { class: 'ev ev-reasoning' }, el('summary', {}, 'Reasoning'), body)
      : el('div', { class: 'ev ev-message' }, body);
    this.#add(node, id);
    const block = {
      append(delta) {
        if (text.length < MOST_TEXT) text.appendData(clean(delta));
      },
      set(whole) {
        text.data = cut(whole);
      },
    };
    this.#blocks.set(id, block);
    return block;
  }

  #tool(event) {
    const id = `t:${event.call}`;
    let block = this.#blocks.get(id);
    if (!block) {
      block = toolBlock();
      this.#add(block.node, id);
      this.#blocks.set(id, block);
    }
    block.show(event);
  }
}

function toolBlock() {
  const state = el('span', { class: 'tool-state' });
  const name = el('span', { class: 'tool-name' });
  const title = el('span', { class: 'tool-title' });
  const body = el('div', { class: 'tool-body', tabindex: '0', role: 'group', 'aria-label': 'Arguments and output' });
  const node = el('details', { class: 'ev ev-tool tool-runs' }, el('summary', {}, state, ' ', name, ' ', title), body);
  const known = { input: {}, title: '' };
  const draw = () => {
    if (!node.open) return;
    fill(body,
      Object.entries(known.input).map(([field, value]) => el('div', { class: 'tool-field' },
        el('span', { class: 'tool-key' }, field),
        el('pre', {}, cut(typeof value === 'string' ? value : JSON.stringify(value, null, 1))))),
      known.output && el('pre', { class: 'tool-output' }, cut(known.output)),
      known.error && el('pre', { class: 'tool-error' }, cut(known.error)));
  };
  node.addEventListener('toggle', draw);
  const show = (event) => {
    if (event.input && typeof event.input === 'object') known.input = event.input;
    known.output = event.output;
    known.error = event.error;
    known.title = event.title || known.title || summary(known.input);
    const isOver = event.type === 'tool_execution_end';
    node.classList.toggle('tool-runs', !isOver);
    node.classList.toggle('tool-failed', Boolean(event.error));
    setText(state, isOver ? (event.error ? 'failed' : 'done') : 'runs');
    setText(name, event.tool);
    setText(title, known.title.slice(0, 500));
    draw();
  };
  return { node, show };
}

/** What a tool is about, from its arguments. */
function summary(input) {
  const value = input.command ?? input.filePath ?? input.path ?? input.pattern ?? input.url ?? input.description;
  return typeof value === 'string' ? value : '';
}

function cut(text) {
  const whole = String(text ?? '');
  if (whole.length <= MOST_TEXT) return clean(whole);
  return `${clean(whole.slice(0, MOST_TEXT))}\n… ${short(whole.length - MOST_TEXT)} more characters`;
}

function asked(detail) {
  if (Array.isArray(detail)) return detail.map((question) => `${question.question} (${question.options.join(' / ')})`).join(' ');
  if (detail?.permission) return `to use ${detail.permission} on ${(detail.patterns ?? []).join(', ')}`;
  return JSON.stringify(detail);
}

function answered(answer) {
  return Array.isArray(answer) ? answer.flat().join(', ') : String(answer);
}
