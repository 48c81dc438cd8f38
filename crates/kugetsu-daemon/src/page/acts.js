// What a person does to sessions and tasks: answers, signals, tasks, and the forms for them.

import { newKey, post, sessionPath, useToken } from './api.js';
import { clean, el, fill, shortRef, tail } from './dom.js';
import { store } from './store.js';

const said = document.getElementById('said');
let silence = 0;

/** Says what has happened, at the edge of the page. */
export function say(text, isBad = false) {
  clearTimeout(silence);
  fill(said, el('span', { class: isBad ? 'said-in bad' : 'said-in' }, text));
  silence = setTimeout(() => fill(said), isBad ? 12000 : 6000);
}

/** What an error says, with the daemon's hints. */
export function problem(error) {
  return [error.message, ...(error.hints ?? [])].join(' – ');
}

/** Runs an action for a button, which is off meanwhile, and says how it went. */
export async function act(button, action, done) {
  if (button?.getAttribute('aria-disabled') === 'true') return false;
  button?.setAttribute('aria-disabled', 'true');
  try {
    const result = await action();
    if (done) say(typeof done === 'function' ? done(result) : done);
    store.refresh(true);
    return true;
  } catch (error) {
    say(problem(error), true);
    return false;
  } finally {
    button?.removeAttribute('aria-disabled');
  }
}

/** Submits a task. A submission whose answer was lost is repeated once, under the same key. */
export async function submit(body) {
  const key = { 'idempotency-key': newKey() };
  try {
    return await post('/v1/tasks', body, key);
  } catch (error) {
    if (error.status !== 0) throw error;
    return post('/v1/tasks', body, key);
  }
}

function submitted(task) {
  return `The task ${tail(task.task_id)} for ${shortRef(task.ref)} is in the queue.`;
}

/** A button. */
export function button(name, onClick, props = {}) {
  const node = el('button', { type: 'button', ...props }, name);
  node.addEventListener('click', () => onClick(node));
  return node;
}

/** A button that acts at the second click, because what it does cannot be undone. */
export function sureButton(name, question, onClick, props = {}) {
  let timer = 0;
  const calm = () => {
    clearTimeout(timer);
    timer = 0;
    node.classList.remove('sure');
    node.textContent = clean(name);
  };
  const node = button(name, () => {
    if (timer) {
      calm();
      onClick(node);
      return;
    }
    node.classList.add('sure');
    node.textContent = clean(question);
    timer = setTimeout(calm, 5000);
  }, props);
  node.addEventListener('blur', calm);
  return node;
}

export function goOnButton(ref, name = 'Go on') {
  return button(name, (node) => act(node, () => submit({ ref, prompt: 'go on' }), submitted),
    { 'aria-label': `${name}: ${shortRef(ref)}`, title: 'Submits a task with the prompt “go on”.' });
}

export function signalButton(ref, signal, name, done) {
  const send = (node) => act(node, () => post(sessionPath(ref, '/signal'), { signal }), done);
  const label = { 'aria-label': `${name}: ${shortRef(ref)}` };
  if (signal !== 'stop') return button(name, send, label);
  return sureButton(name, 'Stop the turn?', send, { class: 'danger' });
}

export function cancelButton(task) {
  const send = (node) => act(node, () => post(`/v1/tasks/${task.task}/cancel`, {}),
    `The task ${tail(task.task)} is cancelled.`);
  const question = task.state === 'running' ? 'Stop its turn?' : 'Cancel it?';
  return sureButton('Cancel', question, send, { class: 'danger', title: `Cancels the task ${task.task}.` });
}

export function retryButton(task) {
  const send = (node) => act(node, () => post(`/v1/tasks/${task.task}/retry`, {}),
    `The task ${tail(task.task)} is in the queue again.`);
  return button('Retry', send, { 'aria-label': `Retry the task for ${shortRef(task.ref)}`, title: `Tries the task ${task.task} again.` });
}

/** The buttons for a task that is not over. */
export function taskButtons(task) {
  return task.state === 'parked' ? [retryButton(task), cancelButton(task)] : [cancelButton(task)];
}

/** The buttons for what a session may need in this state. */
export function stateButtons(ref, state) {
  switch (state) {
    case 'running':
      return [
        signalButton(ref, 'pause', 'Pause', 'The turn pauses before its next step.'),
        signalButton(ref, 'stop', 'Stop', 'The turn stops.'),
      ];
    case 'paused':
      return [
        signalButton(ref, 'resume', 'Resume', 'The turn goes on.'),
        signalButton(ref, 'stop', 'Stop', 'The turn stops.'),
      ];
    case 'completed':
    case 'new':
      return [];
    default:
      if (store.waiting(ref).length) return [el('span', { class: 'quiet' }, 'A task waits for it.')];
      return [goOnButton(ref, state === 'blocked' || state === 'aborted' ? 'Go on' : 'Retry')];
  }
}

// ---- requests

/** A form for the request of a session. */
export function requestForm(ref, request) {
  const follow = el('input', { type: 'checkbox', prop: { checked: true } });
  const send = (node, answer) => act(node, async () => {
    await post(sessionPath(ref, '/answer'), { answer });
    if (follow.checked) await submit({ ref, prompt: 'go on' });
  }, () => (follow.checked ? 'The answer is on record, and a task delivers it.' : 'The answer is on record.'));
  const goOn = el('label', { class: 'check' }, follow, ' Go on with the answer');
  const { detail } = request;
  if (Array.isArray(detail)) return questionForm(detail, send, goOn);
  if (detail?.permission) {
    return el('div', { class: 'ask' },
      el('p', { class: 'ask-text' }, 'The agent wants to use ', el('strong', {}, detail.permission), ' on:'),
      el('ul', { class: 'patterns' }, (detail.patterns ?? []).map((pattern) => el('li', {}, el('code', {}, pattern)))),
      el('div', { class: 'actions' },
        button('Allow', (node) => send(node, 'allow'), { class: 'primary' }),
        button('Deny', (node) => send(node, 'deny'), { class: 'danger' }), goOn));
  }
  return el('div', { class: 'ask' }, el('p', {}, 'The page cannot show this request: '),
    el('pre', {}, JSON.stringify(detail, null, 1)));
}

let names = 0;

function questionForm(questions, send, goOn) {
  const leave = button('Let the agent decide', (node) => send(node, 'deny'));
  const [only] = questions;
  const isSimple = questions.length === 1 && !only.multiple;
  if (isSimple) {
    const own = el('input', { type: 'text', 'aria-label': 'Another answer', placeholder: 'Another answer' });
    const form = el('form', { class: 'ask' },
      el('p', { class: 'ask-text' }, el('strong', {}, only.header), ' ', only.question),
      el('div', { class: 'options' }, only.options.map((option) =>
        button(option, (node) => send(node, [[option]]), { class: 'option' }))),
      el('div', { class: 'actions' }, own, el('button', { type: 'submit' }, 'Answer'), leave, goOn));
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      if (own.value.trim()) send(event.submitter, [[own.value.trim()]]);
      else own.focus();
    });
    return form;
  }
  const fields = questions.map((question) => {
    names += 1;
    const type = question.multiple ? 'checkbox' : 'radio';
    const inputs = question.options.map((option) => {
      const input = el('input', { type, name: `question-${names}` });
      return { option, input, label: el('label', { class: 'check' }, input, ' ', option) };
    });
    const node = el('fieldset', {}, el('legend', {}, el('strong', {}, question.header), ' ', question.question),
      inputs.map(({ label }) => label));
    return { node, labels: () => inputs.filter(({ input }) => input.checked).map(({ option }) => option) };
  });
  const missing = el('p', { class: 'bad', role: 'alert', hidden: true }, 'Each question needs an answer.');
  const form = el('form', { class: 'ask' }, fields.map(({ node }) => node), missing,
    el('div', { class: 'actions' }, el('button', { type: 'submit', class: 'primary' }, 'Answer'), leave, goOn));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const answers = fields.map(({ labels }) => labels());
    missing.hidden = answers.every((labels) => labels.length > 0);
    if (missing.hidden) send(event.submitter, answers);
  });
  return form;
}

// ---- tasks

/** A form for a task: in the session `ref`, or in one that the person names. */
export function taskForm(ref, onDone) {
  names += 1;
  const id = `form-${names}`;
  const input = (type, props) => el('input', { type, autocomplete: 'off', ...props });
  const where = input('text', { required: true, spellcheck: 'false', placeholder: 'github.com/owner/repo#14', list: `${id}-repos` });
  const repos = el('datalist', { id: `${id}-repos` },
    (store.query?.repositories ?? []).map((one) => el('option', { value: one.repo })));
  const prompt = el('textarea', { rows: '4', required: true, placeholder: 'What the agent does' });
  const model = input('text', { placeholder: 'provider/model', spellcheck: 'false' });
  const agent = input('text', { spellcheck: 'false' });
  const priority = input('number', { min: '-100', max: '100', step: '1', placeholder: '0' });
  const cost = input('number', { min: '0', step: 'any', placeholder: 'US dollars' });
  const minutes = input('number', { min: '1', step: '1', placeholder: 'minutes' });
  const field = (name, node, hint) => el('label', { class: 'field' }, el('span', { class: 'field-name' }, name), node,
    hint && el('span', { class: 'hint' }, hint));
  const form = el('form', { class: 'task-form' },
    !ref && field('Session or repository', where,
      'An address, the URL of an issue, or a repository, in which the task gets a session of its own.'),
    !ref && repos,
    field('Prompt', prompt, 'Ctrl and Enter submit it.'),
    el('details', { class: 'more' }, el('summary', {}, 'Options'),
      el('div', { class: 'grid' }, field('Model', model), field('Agent', agent), field('Priority', priority),
        field('Cost limit', cost), field('Time limit', minutes))),
    el('div', { class: 'actions' }, el('button', { type: 'submit', class: 'primary' }, 'Submit'),
      onDone && button('Close', () => onDone())));
  const body = () => ({
    ...(ref ? { ref } : placeOf(where.value.trim())),
    prompt: prompt.value,
    model: model.value.trim() || undefined,
    agent: agent.value.trim() || undefined,
    priority: priority.value ? Number(priority.value) : undefined,
    limits: {
      max_cost_usd: cost.value ? Number(cost.value) : undefined,
      timeout_seconds: minutes.value ? Number(minutes.value) * 60 : undefined,
    },
  });
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const isIn = await act(form.querySelector('[type=submit]'), () => submit(body()), submitted);
    if (!isIn) return;
    prompt.value = '';
    onDone?.();
  });
  prompt.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  return form;
}

/** Where a task runs: an address has `#` or `~`, and anything else is a repository. */
function placeOf(text) {
  if (/^[a-z]+:\/\//i.test(text)) return /\/\d+(?:[/?#]|$)/.test(text) ? { context: { issue_url: text } } : { repo: text };
  return /[#~]/.test(text) ? { ref: text } : { repo: text };
}

/** A form for the token that the daemon asks for. */
export function tokenForm() {
  const input = el('input', { type: 'password', autocomplete: 'off', 'aria-label': 'Token' });
  const form = el('form', { class: 'actions' }, input, el('button', { type: 'submit' }, 'Use the token'));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    useToken(input.value);
    store.refresh(true);
  });
  return form;
}
