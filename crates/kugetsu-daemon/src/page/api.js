// The daemon's API: requests, errors, and streams of events.

const TOKEN = 'kugetsu-token';
let token = sessionStorage.getItem(TOKEN) ?? '';

/** Keeps a token for this tab. An empty one forgets it. */
export function useToken(text) {
  token = text.trim();
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

/** An error of the API, or of the way to it (`status` 0). */
export class ApiError extends Error {
  constructor(status, details) {
    super(details.detail || details.title || `the daemon answered ${status}`);
    this.status = status;
    this.code = details.code ?? '';
    this.hints = Array.isArray(details.hints) ? details.hints : [];
  }
}

function headersOf(more) {
  return token ? { ...more, authorization: `Bearer ${token}` } : more;
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: 'no-store', credentials: 'same-origin', redirect: 'error', ...options });
  } catch (error) {
    if (options.signal?.reason === GONE) throw error;
    const late = error.name === 'TimeoutError';
    throw new ApiError(0, { detail: late ? 'the daemon is too slow' : 'the daemon does not answer' });
  }
  if (!response.ok) {
    let details = {};
    try {
      details = await response.json();
    } catch {
      // Something else than the daemon has answered, or its answer was cut off.
    }
    throw new ApiError(response.status, details);
  }
  return response;
}

async function read(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError(0, { detail: 'the answer of the daemon was cut off' });
  }
}

/** Reads a document. */
export async function get(path, query = {}, seconds = 20) {
  const fields = Object.entries(query).filter(([, value]) => value !== undefined && value !== '');
  const search = fields.length ? `?${new URLSearchParams(fields)}` : '';
  const options = { headers: headersOf({ accept: 'application/json' }), signal: AbortSignal.timeout(seconds * 1000) };
  return read(await send(path + search, options));
}

/** Sends a document. The answer is null if it has no body. */
export async function post(path, body, more = {}) {
  const response = await send(path, {
    method: 'POST',
    headers: headersOf({ accept: 'application/json', 'content-type': 'application/json', ...more }),
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(30000),
  });
  return response.headers.get('content-type')?.includes('json') ? read(response) : null;
}

/** Uses up the link that has opened the page. The daemon answers with a cookie. */
export function logIn(code) {
  return post('/page/login', { code });
}

/** Forgets the token, and ends the login of this browser. */
export async function logOut() {
  useToken('');
  await post('/page/logout', {});
}

export function sessionPath(ref, rest = '') {
  return `/v1/sessions/${encodeURIComponent(ref)}${rest}`;
}

/** A key with which a submission can be repeated. `randomUUID` is missing on pages that are served without TLS. */
export function newKey() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return `page-${[...random].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}

const GONE = new DOMException('the reader has gone', 'AbortError');

/**
 * Follows a stream of server-sent events until it ends, and calls `onEvents` with each batch of them. `EventSource`
 * would neither send a token, nor show an error, nor stop when the turn has ended. Returns the id of the last event.
 */
export async function follow(path, lastId, abort, onEvents) {
  const headers = { accept: 'text/event-stream' };
  if (lastId) headers['last-event-id'] = lastId;
  const response = await send(path, { headers: headersOf(headers), signal: abort.signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let id = lastId;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return id;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    const events = [];
    for (const line of lines) {
      if (line.startsWith('id:')) id = line.slice(3).trim();
      if (!line.startsWith('data:')) continue;
      try {
        events.push(JSON.parse(line.slice(5)));
      } catch {
        // A line that is no event, from a turn that was killed while it wrote.
      }
    }
    if (events.length) onEvents(events, id);
  }
}

/** Ends a stream. */
export function leave(abort) {
  abort?.abort(GONE);
}
