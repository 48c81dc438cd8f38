// A list of any length of which only the rows in sight are elements.

import { el } from './dom.js';

/** Rows beyond the edges, so that a fast scroll shows no gaps. */
const MARGIN = 4;

/**
 * A list box. It is one stop of the Tab key; arrows or j and k move in it, Enter or a click opens. `make` returns the
 * content of a row as `{ node, show(item) }`, which is used again for other items.
 */
export class VirtualList {
  #box;
  #space;
  #rows = [];
  #items = [];
  #height;
  #active = -1;
  #chosen = null;
  #waits = false;
  #make;
  #open;
  #id;

  constructor({ id, label, make, open }) {
    this.#id = id;
    this.#make = make;
    this.#open = open;
    this.#space = el('div', { role: 'presentation', class: 'list-space' });
    this.#box = el('div', {
      id, class: 'list', role: 'listbox', tabindex: '0', 'aria-label': label,
      on: {
        scroll: () => this.#soon(),
        keydown: (event) => this.#key(event),
        focus: () => this.#focused(),
        click: (event) => this.#click(event),
      },
    }, this.#space);
    new ResizeObserver(() => this.#soon()).observe(this.#box);
  }

  get node() {
    return this.#box;
  }

  get active() {
    return this.#items[this.#active] ?? null;
  }

  /** Shows these items. The active one stays active wherever it is now. */
  set(items) {
    const key = this.active?.key;
    this.#items = items;
    this.#active = key === undefined ? -1 : items.findIndex((item) => item.key === key);
    this.#box.hidden = items.length === 0;
    this.#soon();
  }

  /** Marks the item that is open. */
  choose(ref) {
    this.#chosen = ref;
    this.#soon();
  }

  focus() {
    this.#box.focus();
  }

  move(by) {
    const last = this.#items.length - 1;
    const to = this.#active < 0 ? (by > 0 ? this.#firstInSight() : last) : this.#active + by;
    this.#activate(Math.min(last, Math.max(0, to)));
  }

  /** Draws what has changed, such as ages. */
  refresh() {
    this.#soon();
  }

  #rowHeight() {
    this.#height ??= parseFloat(getComputedStyle(this.#box).getPropertyValue('--row')) || 52;
    return this.#height;
  }

  #firstInSight() {
    return Math.ceil(this.#box.scrollTop / this.#rowHeight());
  }

  #focused() {
    if (this.#active < 0 && this.#items.length && this.#box.matches(':focus-visible')) {
      this.#activate(this.#firstInSight());
    }
  }

  #activate(index) {
    if (!this.#items[index]) return;
    this.#active = index;
    const height = this.#rowHeight();
    const top = index * height;
    const { scrollTop, clientHeight } = this.#box;
    if (top < scrollTop) this.#box.scrollTop = top;
    else if (top + height > scrollTop + clientHeight) this.#box.scrollTop = top + height - clientHeight;
    this.#draw();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.#box.clientHeight / this.#rowHeight()) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    if (moves[event.key]) this.move(moves[event.key]);
    else if (event.key === 'Home') this.#activate(0);
    else if (event.key === 'End') this.#activate(this.#items.length - 1);
    else if (event.key === 'Enter' || event.key === ' ') this.#open(this.active);
    else return;
    event.preventDefault();
  }

  #click(event) {
    const row = event.target.closest('[role=option]');
    const item = row && this.#items[Number(row.dataset.index)];
    if (!item) return;
    this.#active = Number(row.dataset.index);
    this.#draw();
    this.#open(item);
  }

  #soon() {
    if (this.#waits) return;
    this.#waits = true;
    requestAnimationFrame(() => {
      this.#waits = false;
      this.#draw();
    });
  }

  #draw() {
    const height = this.#rowHeight();
    const count = this.#items.length;
    const size = `${count * height}px`;
    if (this.#space.style.height !== size) this.#space.style.height = size;
    const sight = this.#box.clientHeight;
    const first = Math.max(0, Math.floor(this.#box.scrollTop / height) - MARGIN);
    const last = sight ? Math.min(count, Math.ceil((this.#box.scrollTop + sight) / height) + MARGIN) : first;
    const need = last - first;
    while (this.#rows.length < need) this.#rows.push(this.#row());
    const used = new Set();
    // A row keeps its item while that is in sight, so that a reader of the screen sees it move and not change.
    for (let index = first; index < last; index += 1) {
      const row = this.#rows[index % this.#rows.length];
      used.add(row);
      this.#place(row, index, count);
    }
    for (const row of this.#rows) {
      if (!used.has(row)) row.node.hidden = true;
    }
    const active = this.#active >= first && this.#active < last ? this.#rows[this.#active % this.#rows.length] : null;
    if (active) this.#box.setAttribute('aria-activedescendant', active.node.id);
    else this.#box.removeAttribute('aria-activedescendant');
  }

  #row() {
    const content = this.#make();
    const node = el('div', { role: 'option', class: 'row', id: `${this.#id}-${this.#rows.length}` }, content.node);
    this.#space.append(node);
    return { node, content };
  }

  #place({ node, content }, index, count) {
    const item = this.#items[index];
    node.hidden = false;
    node.style.transform = `translateY(${index * this.#rowHeight()}px)`;
    node.dataset.index = index;
    node.setAttribute('aria-setsize', count);
    node.setAttribute('aria-posinset', index + 1);
    node.setAttribute('aria-selected', String(item.ref === this.#chosen));
    node.classList.toggle('active', index === this.#active);
    content.show(item);
  }
}
