// Elements. Whatever came from elsewhere gets in as text, never as markup.

export const by = (id) => document.getElementById(id);

export function element(tag, { text, kind, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Writes only what differs, so that nothing flickers and no screen reader hears a figure twice.
export function write(id, text) {
  const node = by(id);
  if (node.textContent !== text) node.textContent = text;
}

export function width(node, part) {
  node.style.width = `${Math.max(0, Math.min(1, part)) * 100}%`;
}
