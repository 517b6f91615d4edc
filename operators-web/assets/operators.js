// Comfort only: everything works without it.
'use strict';

const wireCopy = root => {
  if (!navigator.clipboard) return;
  for (const button of root.querySelectorAll('button.copy')) button.hidden = false;
};
document.addEventListener('click', async event => {
  const button = event.target.closest('button.copy');
  if (!button) return;
  const from = document.getElementById(button.dataset.copy);
  const label = button.textContent;
  await navigator.clipboard.writeText(from.textContent);
  button.textContent = button.dataset.copied;
  setTimeout(() => { button.textContent = label; }, 2000);
});
wireCopy(document);

// Makes `old` like `fresh` and keeps every node that is still there: focus, selection, scroll and open details stay.
const become = (old, fresh) => {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return; }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (name !== 'open' && name !== 'hidden' && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== 'hidden' && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const keyed = new Map();
  for (const child of old.children) if (child.dataset?.key) keyed.set(child.dataset.key, child);
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const key = next.dataset?.key;
    let same = key ? keyed.get(key) : at;
    if (!key && same?.dataset?.key) same = null;
    if (!same) { old.insertBefore(next, at); continue; }
    if (same !== at) old.insertBefore(same, at);
    else at = at.nextSibling;
    become(same, next);
  }
  while (at) { const rest = at.nextSibling; at.remove(); at = rest; }
};

const live = document.querySelector('[data-live]');
if (live) {
  const every = 2000;
  const asof = document.getElementById('asof');
  const stale = document.querySelector('.stale');
  let tag = '';
  let missed = 0;
  const tell = well => {
    missed = well ? 0 : missed + 1;
    const old = missed > 1;
    document.body.classList.toggle('old', old);
    const text = old ? stale.dataset.stale : '';
    if (stale.textContent !== text) stale.textContent = text;
  };
  const look = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(location.href, {
          credentials: 'same-origin', redirect: 'manual', cache: 'no-store', signal: AbortSignal.timeout(10000),
          headers: { 'x-live': '1', ...(tag && { 'if-none-match': tag }) },
        });
        // Signed out, by whatever: the sign-in page says so.
        if (answer.type === 'opaqueredirect') { location.reload(); return; }
        if (answer.ok) {
          const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
          const fresh = page.getElementById(live.id);
          if (fresh) become(live, document.adoptNode(fresh));
          wireCopy(live);
          tag = answer.headers.get('etag') ?? '';
        }
        const well = answer.ok || answer.status === 304;
        if (well) asof.textContent = answer.headers.get('x-as-of') ?? asof.textContent;
        tell(well);
      } catch { tell(false); }
    }
    setTimeout(look, every);
  };
  setTimeout(look, every);
}
for (const select of document.querySelectorAll('.filters select')) select.addEventListener('change', () => select.form.submit());
